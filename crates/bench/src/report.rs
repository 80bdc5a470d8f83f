//! The figures of a run, and how they are shown.

mod plot;
mod table;

use nudge_runtime::{clock, database::Kind};
use serde::Serialize;

/// All figures of a run, and of what machine.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When it was made.
    pub at: String,
    /// Number of cores, the operating system, and whether this is a debug build.
    pub machine: String,
    /// How many times each figure was measured.
    pub rounds: usize,
    /// Whether it was made with a tenth of everything, and compares nothing.
    pub quick: bool,
    /// What was measured.
    pub figures: Vec<Figure>,
}

/// One figure of the kit, and the same of others, measured in turn.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Its name: one of [`NAMES`](crate::NAMES).
    pub name: &'static str,
    /// What it is, in a few words.
    pub title: &'static str,
    /// The database of owner and read model.
    pub database: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Ours first.
    pub series: Vec<Series>,
    /// What was aimed at.
    pub aims: Vec<Aim>,
}

/// The values of one contestant, one for each round.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// Who.
    pub label: &'static str,
    /// In the figure's unit.
    pub values: Vec<f64>,
}

/// A bound of our median, or of the median of ratios to another's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Aim {
    /// The label of the other; `None` for our own value.
    pub against: Option<&'static str>,
    /// Whether the bound is a lower one.
    pub at_least: bool,
    /// The bound.
    pub bound: f64,
}

/// Lowest, middle and highest of some values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The lowest.
    pub least: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The highest.
    pub most: f64,
}

impl Report {
    pub(crate) fn of_this_machine(rounds: usize, quick: bool) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let build = if cfg!(debug_assertions) { ", a debug build: compares nothing" } else { "" };
        let (system, processor) = (std::env::consts::OS, std::env::consts::ARCH);
        let machine = format!("{cores} cores, {system} {processor}{build}");
        Self { at: clock::now().to_string(), machine, rounds, quick, figures: Vec::new() }
    }

    /// As an SVG image.
    pub fn svg(&self) -> String {
        plot::svg(self)
    }

    /// As rows of a table; the first one is the heading.
    pub fn rows(&self) -> Vec<Vec<String>> {
        table::rows(self)
    }
}

impl Figure {
    pub(crate) fn new(
        name: &'static str,
        title: &'static str,
        kind: Kind,
        unit: &'static str,
        aims: Vec<Aim>,
    ) -> Self {
        let database = match kind {
            Kind::Sqlite => "SQLite",
            Kind::Postgres => "PostgreSQL",
        };
        Self { name, title, database, unit, series: Vec::new(), aims }
    }

    /// Notes a value of this round.
    pub(crate) fn add(&mut self, label: &'static str, value: f64) {
        match self.series.iter_mut().find(|series| series.label == label) {
            Some(series) => series.values.push(value),
            None => self.series.push(Series { label, values: vec![value] }),
        }
    }

    /// Ours, divided by another's of the same round.
    pub fn ratio(&self, other: &Series) -> Option<Spread> {
        let ours = self.series.first()?;
        Spread::of(ours.values.iter().zip(&other.values).map(|(ours, other)| ours / other))
    }

    /// What an aim is about: our median, or the median of ratios.
    pub fn reached(&self, aim: &Aim) -> Option<f64> {
        let spread = match aim.against {
            None => Spread::of(self.series.first()?.values.iter().copied()),
            Some(label) => self.ratio(self.series.iter().find(|series| series.label == label)?),
        };
        spread.map(|spread| spread.median)
    }
}

impl Aim {
    pub(crate) const fn at_least(bound: f64, against: &'static str) -> Self {
        Self { against: Some(against), at_least: true, bound }
    }

    /// A lower bound of our own value.
    pub(crate) const fn least(bound: f64) -> Self {
        Self { against: None, at_least: true, bound }
    }

    pub(crate) const fn at_most(bound: f64, against: Option<&'static str>) -> Self {
        Self { against, at_least: false, bound }
    }

    /// Whether a value is within it.
    pub fn holds(&self, value: f64) -> bool {
        if self.at_least { value >= self.bound } else { value <= self.bound }
    }
}

impl Spread {
    /// Of these values; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { least, median: f64::midpoint(low, high), most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure() -> Figure {
        let aims = vec![Aim::at_least(2.0, "other"), Aim::at_most(3.0, None)];
        let mut figure = Figure::new("drain", "changes drained", Kind::Sqlite, "/s", aims);
        for (ours, other) in [(2.0, 1.0), (9.0, 3.0), (4.0, 4.0)] {
            figure.add("ours", ours);
            figure.add("other", other);
        }
        figure
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_own_ratios() {
        let figure = figure();
        let ratio = figure.ratio(&figure.series[1]).unwrap();
        assert_eq!(ratio, Spread { least: 1.0, median: 2.0, most: 3.0 });
        assert_eq!(figure.reached(&figure.aims[0]), Some(2.0));
        assert!(figure.aims[0].holds(2.0) && !figure.aims[0].holds(1.99));
        assert_eq!(figure.reached(&figure.aims[1]), Some(4.0));
        assert!(!figure.aims[1].holds(4.0) && figure.aims[1].holds(3.0));
        assert_eq!(figure.reached(&Aim::at_least(1.0, "nobody")), None);
    }

    #[test]
    fn the_middle_of_an_even_number_of_values_is_between_two() {
        let spread = Spread::of([4.0, 1.0, 2.0, 9.0]).unwrap();
        assert_eq!(spread, Spread { least: 1.0, median: 3.0, most: 9.0 });
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn the_table_says_what_was_reached_and_what_was_not() {
        let mut report = Report::of_this_machine(3, false);
        report.figures.push(figure());
        let rows = report.rows();
        assert_eq!(rows[1][..4], ["changes drained", "SQLite", "ours", "4.00 /s"]);
        assert!(rows[1].concat().contains("at most 3: missed"), "{rows:?}");
        assert_eq!(rows[2][2..4], ["other", "3.00 /s"]);
        assert!(rows[2].concat().contains("at least 2: reached"), "{rows:?}");
    }

    #[test]
    fn the_plot_has_a_bar_for_each_of_them_and_escapes_what_it_says() {
        let mut report = Report::of_this_machine(3, false);
        let mut figure = figure();
        figure.add("a < b", 1.0);
        report.figures.push(figure);
        let svg = report.svg();
        assert_eq!(svg.matches("<rect ").count(), 3);
        assert!(svg.contains("a &lt; b") && svg.starts_with("<svg "), "{svg}");
    }
}
