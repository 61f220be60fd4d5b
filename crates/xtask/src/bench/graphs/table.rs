//! The measurements as a Markdown table.

use std::time::Duration;

use super::measure::Measurement;

/// One row of the table; a run that failed is `None`.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: String,
    /// Round trip between client and builders, in milliseconds, on top of next to none.
    pub(super) round_trip: u32,
    pub(super) stock: Vec<Option<Measurement>>,
    pub(super) drover: Vec<Option<Measurement>>,
    pub(super) bound: Duration,
}

impl Line {
    /// Whether any run of this row failed.
    pub(super) fn failed(&self) -> bool {
        self.stock.iter().chain(&self.drover).any(Option::is_none)
    }
}

/// Returns the table.
pub(super) fn render(lines: &[Line]) -> String {
    let mut text =
        "| graph | round trip | stock Nix | drover | ratio | bound | peak memory: stock | \
                    drover |\n|---|--:|--:|--:|--:|--:|--:|--:|\n"
            .to_owned();
    for line in lines {
        let times = [&line.stock, &line.drover].map(|runs| median(runs, |it| it.time));
        let ratio = match times {
            [Some(stock), Some(drover)] if !drover.is_zero() => {
                format!("{:.1}×", stock.as_secs_f64() / drover.as_secs_f64())
            }
            _ => "–".to_owned(),
        };
        let [stock, drover] = times.map(|time| or_failed(time.map(seconds)));
        let [stock_memory, drover_memory] = [&line.stock, &line.drover].map(|runs| {
            or_failed(median(runs, |it| it.memory).map(|it| format!("{} MiB", it >> 20)))
        });
        text += &format!(
            "| {} | {} ms | {stock} | {drover} | {ratio} | {} | {stock_memory} | {drover_memory} |\n",
            line.name,
            line.round_trip,
            seconds(line.bound),
        );
    }
    text + "\nThe ratio is stock over drover. The bound is what the builds sleep at least, on that many \
            slots; copying, starting and round trips come on top."
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn or_failed(text: Option<String>) -> String {
    text.unwrap_or_else(|| "failed".to_owned())
}

/// Returns the middle value; `None` if a run failed. Of two middle values it takes the larger.
fn median<T: Ord>(runs: &[Option<Measurement>], value: impl Fn(&Measurement) -> T) -> Option<T> {
    let mut values = runs.iter().map(|run| run.as_ref().map(&value)).collect::<Option<Vec<_>>>()?;
    values.sort();
    let middle = values.len() / 2;
    values.into_iter().nth(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(seconds: &[u64]) -> Vec<Option<Measurement>> {
        let run = |it: &u64| Measurement { time: Duration::from_secs(*it), memory: *it << 20 };
        seconds.iter().map(|it| Some(run(it))).collect()
    }

    #[test]
    fn medians_and_ratio() {
        let line = Line {
            name: "wide".to_owned(),
            round_trip: 50,
            stock: runs(&[90, 10, 30]),
            drover: runs(&[3, 2, 4]),
            bound: Duration::from_millis(1500),
        };
        assert!(!line.failed());
        let row = "| wide | 50 ms | 30.00 s | 3.00 s | 10.0× | 1.50 s | 30 MiB | 3 MiB |";
        assert_eq!(render(&[line]).lines().nth(2), Some(row));
    }

    #[test]
    fn a_failed_run_is_not_averaged_away() {
        let line = Line {
            name: "wide".to_owned(),
            round_trip: 0,
            stock: runs(&[2]),
            drover: vec![None],
            bound: Duration::ZERO,
        };
        assert!(line.failed());
        let row = "| wide | 0 ms | 2.00 s | failed | – | 0.00 s | 2 MiB | failed |";
        assert_eq!(render(&[line]).lines().nth(2), Some(row));
    }
}
