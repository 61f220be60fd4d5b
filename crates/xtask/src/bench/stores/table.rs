//! The figures as a Markdown table.

use super::rows::{Aim, Row, Sample, Unit};
use super::site::Contents;

/// What was measured of one row.
pub(super) struct Line {
    pub(super) row: &'static Row,
    pub(super) contents: Contents,
    pub(super) stock: Runs,
    pub(super) drover: Runs,
    pub(super) limit: Option<Sample>,
}

/// One side's runs; `None` where one failed.
#[derive(Debug, Default)]
pub(super) struct Runs(pub(super) Vec<Option<Sample>>);

impl Runs {
    /// Returns the sample in the middle; none if a run failed.
    pub(super) fn median(&self) -> Option<Sample> {
        let mut samples: Vec<Sample> = self.0.iter().cloned().collect::<Option<_>>()?;
        samples.sort_by(|one, other| one.value.total_cmp(&other.value));
        let middle = samples.len() / 2;
        samples.into_iter().nth(middle)
    }
}

impl Line {
    /// What went wrong, if something did.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let runs = || self.stock.0.iter().chain(&self.drover.0);
        if runs().any(Option::is_none) {
            return Some("a run failed");
        }
        let mut proofs = runs().flatten().filter(|sample| !sample.stopped);
        let first = proofs.next().map(|sample| &sample.proof);
        if proofs.any(|sample| Some(&sample.proof) != first) {
            return Some("the sides have different results");
        }
        None
    }

    /// Whether drover is where it is to be.
    fn verdict(&self) -> Option<bool> {
        let (stock, drover) = (self.stock.median(), self.drover.median()?);
        Some(match self.row.aim {
            // Two runs of one program differ by that much.
            Aim::Ratio(1.0) => stock?.value / drover.value >= 0.95,
            Aim::Ratio(ratio) => stock?.value / drover.value >= ratio,
            Aim::Within(time) => drover.value <= time.as_secs_f64(),
            Aim::Below(bytes) => drover.value < bytes as f64,
            Aim::TimesLimit(times) => drover.value <= times * self.limit.as_ref()?.value,
        })
    }

    pub(super) fn name(&self) -> String {
        match self.contents {
            Contents::ByDefault => self.row.name.to_owned(),
            Contents::Unsynced => format!("{}, nobody syncs contents", self.row.name),
        }
    }
}

/// Returns the table.
pub(super) fn render(lines: &[Line]) -> String {
    let mut text = "| what | stock Nix | drover | ratio | aim | processor: stock | drover |\n\
                    |---|--:|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for line in lines {
        text += &render_line(line);
    }
    text + "\nThe ratio is stock over drover; in bold where the aim is reached. Processor time is that \
            of the run in the middle, on all hosts of the side."
}

fn render_line(line: &Line) -> String {
    let (stock, drover) = (line.stock.median(), line.drover.median());
    let unit = line.row.unit;
    let show = |sample: &Option<Sample>| match sample {
        Some(sample) if sample.stopped => format!("> {}", figure(unit, sample.value)),
        Some(sample) => figure(unit, sample.value),
        None => "failed".to_owned(),
    };
    let ratio = match (&stock, &drover) {
        (Some(stock), Some(drover)) => {
            let more = if stock.stopped { "> " } else { "" };
            let ratio = stock.value / drover.value;
            let digits = if ratio < 2.0 { 2 } else { 1 };
            format!("{more}{ratio:.digits$}")
        }
        _ => "–".to_owned(),
    };
    let ratio = if line.verdict() == Some(true) { format!("**{ratio}**") } else { ratio };
    let aim = match line.row.aim {
        Aim::Ratio(1.0) => "no slower".to_owned(),
        Aim::Ratio(ratio) => format!("{ratio}"),
        Aim::Within(time) => figure(Unit::Time, time.as_secs_f64()),
        Aim::Below(bytes) => figure(Unit::Memory, bytes as f64),
        Aim::TimesLimit(times) => {
            let limit = line.limit.as_ref().map(|limit| times * limit.value);
            limit.map_or("–".to_owned(), |limit| figure(unit, limit))
        }
    };
    format!(
        "| {} | {} | {} | {ratio} | {aim} | {} | {} |\n",
        line.name(),
        show(&stock),
        show(&drover),
        processor(&stock),
        processor(&drover),
    )
}

fn processor(sample: &Option<Sample>) -> String {
    let time = sample.as_ref().map(|sample| sample.processor).filter(|time| !time.is_zero());
    time.map_or("–".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()))
}

pub(super) fn figure(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Memory => format!("{:.1} MiB", value / f64::from(1 << 20)),
        Unit::Time if value < 0.1 => format!("{:.1} ms", value * 1e3),
        Unit::Time => format!("{value:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::stores::rows::ALL;
    use crate::bench::stores::site::Spent;

    fn runs(seconds: &[f64]) -> Runs {
        let spent = |value: &f64| Spent {
            time: Duration::from_secs_f64(*value),
            processor: Duration::from_secs(1),
        };
        Runs(seconds.iter().map(|it| Some(Sample::of(spent(it), "p"))).collect())
    }

    fn line(stock: Runs, drover: Runs) -> Line {
        let row = ALL.iter().find(|row| row.name == "closure of 97,675 paths").unwrap();
        Line { row, contents: Contents::ByDefault, stock, drover, limit: None }
    }

    #[test]
    fn medians_ratio_and_aim() {
        let line = line(runs(&[90.0, 10.0, 30.0]), runs(&[3.0, 2.0, 4.0]));
        assert_eq!(line.fault(), None);
        let row = "| closure of 97,675 paths | 30.00 s | 3.00 s | 10.0 | 12 | 1.00 s | 1.00 s |\n";
        assert_eq!(render_line(&line), row);
        let fast = self::line(runs(&[40.0]), runs(&[0.05]));
        assert!(render_line(&fast).contains("| 50.0 ms | **800.0** |"));
    }

    #[test]
    fn what_differs_or_failed_is_told() {
        let mut other = runs(&[1.0]);
        let mut failed = runs(&[1.0]);
        failed.0.push(None);
        assert_eq!(line(runs(&[1.0]), failed).fault(), Some("a run failed"));
        if let Some(Some(sample)) = other.0.first_mut() {
            sample.proof = "q".to_owned();
        }
        assert_eq!(line(runs(&[1.0]), other).fault(), Some("the sides have different results"));
    }
}
