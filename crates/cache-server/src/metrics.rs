//! What is counted, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Kinds of what is asked for, as labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Front,
    CacheInfo,
    NarInfo,
    Listing,
    Nar,
    Log,
    Realisation,
    Health,
    Metrics,
    None,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Kind::Front => "front",
            Kind::CacheInfo => "nix-cache-info",
            Kind::NarInfo => "narinfo",
            Kind::Listing => "listing",
            Kind::Nar => "nar",
            Kind::Log => "log",
            Kind::Realisation => "realisation",
            Kind::Health => "health",
            Kind::Metrics => "metrics",
            Kind::None => "none",
        }
    }
}

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(Kind, Method, u16), u64>>,
    bytes_sent: AtomicU64,
    connections: AtomicU64,
    hashed: AtomicU64,
    cut_short: AtomicU64,
    uploaded: AtomicU64,
    uploaded_logs: AtomicU64,
}

/// What is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Method {
    Get,
    Head,
    Put,
    Other,
}

impl Method {
    pub(crate) fn of(method: &http::Method) -> Method {
        match *method {
            http::Method::GET => Method::Get,
            http::Method::HEAD => Method::Head,
            http::Method::PUT => Method::Put,
            _ => Method::Other,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Method::Get => "get",
            Method::Head => "head",
            Method::Put => "put",
            Method::Other => "other",
        }
    }
}

/// A connection, for as long as there is one.
pub(crate) struct Open(Arc<Metrics>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn answered(&self, kind: Kind, method: Method, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((kind, method, status)).or_default() += 1;
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn hashed(&self, bytes: u64) {
        self.hashed.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn cut_short(&self) {
        self.cut_short.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn uploaded(&self) {
        self.uploaded.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn log_uploaded(&self) {
        self.uploaded_logs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn opened(self: &Arc<Self>) -> Open {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// Returns all of it as text.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        text.push_str("# HELP drover_cache_requests_total Requests, by what they were answered.\n");
        text.push_str("# TYPE drover_cache_requests_total counter\n");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ((kind, method, status), count) in requests {
            let (kind, method) = (kind.name(), method.name());
            text.push_str(&format!(
                "drover_cache_requests_total{{kind=\"{kind}\",method=\"{method}\",\
                 status=\"{status}\"}} {count}\n"
            ));
        }
        let singles = [
            ("drover_cache_body_bytes_total", "counter", "Bytes of bodies sent.", &self.bytes_sent),
            ("drover_cache_connections", "gauge", "Connections that are open.", &self.connections),
            (
                "drover_cache_hashed_bytes_total",
                "counter",
                "Bytes of NARs that were hashed, as their files had changed or were read first.",
                &self.hashed,
            ),
            (
                "drover_cache_cut_short_total",
                "counter",
                "Bodies that were cut short, as the store did not have what it says.",
                &self.cut_short,
            ),
            (
                "drover_cache_uploaded_paths_total",
                "counter",
                "Paths that were added by uploads.",
                &self.uploaded,
            ),
            (
                "drover_cache_uploaded_logs_total",
                "counter",
                "Build logs that were added by uploads.",
                &self.uploaded_logs,
            ),
        ];
        for (name, kind, help, value) in singles {
            let value = value.load(Ordering::Relaxed);
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let metrics = Arc::new(Metrics::default());
        let open = metrics.opened();
        metrics.answered(Kind::NarInfo, Method::Get, 200);
        metrics.answered(Kind::NarInfo, Method::Get, 200);
        metrics.sent(7);
        let text = metrics.to_text();
        let row = "drover_cache_requests_total{kind=\"narinfo\",method=\"get\",status=\"200\"} 2\n";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("\ndrover_cache_body_bytes_total 7\n"), "{text}");
        assert!(text.contains("\ndrover_cache_connections 1\n"), "{text}");
        drop(open);
        assert!(metrics.to_text().contains("\ndrover_cache_connections 0\n"));
        for line in text.lines() {
            assert!(line.starts_with('#') || line.starts_with("drover_cache_"), "{line}");
        }
    }
}
