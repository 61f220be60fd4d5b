//! What is measured: graphs of `examples/graph.nix`, and the time below which nobody can be.

use std::time::Duration;

/// One graph and the slots it is built on.
#[derive(Debug)]
pub(super) struct Row {
    shape: Shape,
    /// How long each build sleeps, in milliseconds.
    sleep: u64,
    /// Bytes in each output.
    size: u64,
    /// Slots of each of the two builders.
    pub(super) jobs: u64,
    pub(super) way: Way,
}

/// How drover gets its builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As `drover build`.
    Command,
    /// From stock Nix, by a line of its machines file.
    Line,
    /// From stock Nix, as its build hook.
    BuildHook,
}

/// The shape of a graph; on top of each there is one more build that needs the last ones.
#[derive(Debug)]
enum Shape {
    Wide { n: u64 },
    Chain { d: u64 },
    Layers { n: u64, d: u64, k: u64 },
}

/// Builders that a row is measured on.
const BUILDERS: u64 = 2;

/// Built before anything is measured.
pub(super) const WARM_UP: Row =
    Row { shape: Shape::Wide { n: 16 }, sleep: 0, size: 0, jobs: 4, way: Way::Command };

/// Every row.
pub(super) const ALL: [Row; 9] = [
    Row { shape: Shape::Wide { n: 50 }, sleep: 0, size: 0, jobs: 4, way: Way::Command },
    Row { shape: Shape::Chain { d: 20 }, sleep: 0, size: 0, jobs: 4, way: Way::Command },
    Row {
        shape: Shape::Layers { n: 8, d: 6, k: 3 },
        sleep: 500,
        size: 0,
        jobs: 4,
        way: Way::Command,
    },
    Row { shape: Shape::Wide { n: 8 }, sleep: 0, size: 20_000_000, jobs: 4, way: Way::Command },
    Row { shape: Shape::Wide { n: 16 }, sleep: 1000, size: 0, jobs: 1, way: Way::Command },
    Row { shape: Shape::Wide { n: 50 }, sleep: 0, size: 0, jobs: 4, way: Way::Line },
    Row { shape: Shape::Layers { n: 8, d: 6, k: 3 }, sleep: 500, size: 0, jobs: 4, way: Way::Line },
    Row { shape: Shape::Wide { n: 50 }, sleep: 0, size: 0, jobs: 4, way: Way::BuildHook },
    Row {
        shape: Shape::Layers { n: 8, d: 6, k: 3 },
        sleep: 500,
        size: 0,
        jobs: 4,
        way: Way::BuildHook,
    },
];

impl Row {
    /// Returns the arguments of the graph.
    pub(super) fn arguments(&self) -> Vec<(&'static str, String)> {
        let mut arguments = match self.shape {
            Shape::Wide { n } => vec![("shape", "wide".to_owned()), ("n", n.to_string())],
            Shape::Chain { d } => vec![("shape", "chain".to_owned()), ("d", d.to_string())],
            Shape::Layers { n, d, k } => vec![
                ("shape", "layers".to_owned()),
                ("n", n.to_string()),
                ("d", d.to_string()),
                ("k", k.to_string()),
            ],
        };
        if self.sleep != 0 {
            let Row { sleep, .. } = self;
            arguments.push(("sleep", format!("{}.{:03}", sleep / 1000, sleep % 1000)));
        }
        if self.size != 0 {
            arguments.push(("size", self.size.to_string()));
        }
        arguments
    }

    /// Returns the name that the table has for it.
    pub(super) fn name(&self) -> String {
        let mut words = match self.shape {
            Shape::Wide { n } => format!("wide n={n}"),
            Shape::Chain { d } => format!("chain d={d}"),
            Shape::Layers { n, d, k } => format!("layers n={n} d={d} k={k}"),
        };
        if self.sleep != 0 {
            words += &format!(" sleep={} s", Duration::from_millis(self.sleep).as_secs_f64());
        }
        if self.size != 0 {
            words += &format!(" size={} MB", self.size / 1_000_000);
        }
        words += &format!(", 2×{} slots", self.jobs);
        match self.way {
            Way::Command => words,
            Way::Line => format!("hook line: {words}"),
            Way::BuildHook => format!("build hook: {words}"),
        }
    }

    /// Returns how long the builds must sleep at least, however they are spread: what a perfect
    /// scheduler on a perfect network would take if starting a build took no time.
    pub(super) fn bound(&self) -> Duration {
        let slots = BUILDERS * self.jobs;
        let rounds = match self.shape {
            Shape::Wide { n } => n.div_ceil(slots),
            Shape::Chain { d } => d,
            Shape::Layers { n, d, .. } => n.div_ceil(slots) * d,
        };
        Duration::from_millis(self.sleep * (rounds + 1))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::one_round(Shape::Wide { n: 8 }, 4, 2)]
    #[case::two_rounds(Shape::Wide { n: 9 }, 4, 3)]
    #[case::one_slot(Shape::Wide { n: 16 }, 1, 9)]
    #[case::chain(Shape::Chain { d: 20 }, 4, 21)]
    #[case::layers(Shape::Layers { n: 8, d: 6, k: 3 }, 4, 7)]
    fn bounds(#[case] shape: Shape, #[case] jobs: u64, #[case] seconds: u64) {
        let row = Row { shape, sleep: 1000, size: 0, jobs, way: Way::Command };
        assert_eq!(row.bound(), Duration::from_secs(seconds));
    }

    #[test]
    fn arguments_and_names() {
        let [_, _, layers, big, ..] = ALL;
        assert_eq!(layers.name(), "layers n=8 d=6 k=3 sleep=0.5 s, 2×4 slots");
        assert!(layers.arguments().contains(&("sleep", "0.500".to_owned())));
        assert_eq!(big.name(), "wide n=8 size=20 MB, 2×4 slots");
        assert!(big.arguments().contains(&("size", "20000000".to_owned())));
    }
}
