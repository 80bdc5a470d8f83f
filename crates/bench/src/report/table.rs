//! The figures as rows.

use super::{Aim, Figure, Report, Series, Spread};

/// One row for each contestant; the heading first.
pub(super) fn rows(report: &Report) -> Vec<Vec<String>> {
    let heading = ["figure", "database", "who", "median", "from – to", "ratio", "from – to", "aim"];
    let rows = report.figures.iter().flat_map(|figure| {
        figure.series.iter().enumerate().map(|(n, series)| row(figure, series, n == 0))
    });
    [heading.map(str::to_owned).to_vec()].into_iter().chain(rows).collect()
}

fn row(figure: &Figure, series: &Series, is_ours: bool) -> Vec<String> {
    let Some(spread) = Spread::of(series.values.iter().copied()) else { return Vec::new() };
    let ratio = (!is_ours).then(|| figure.ratio(series)).flatten();
    let (ratio, from_to) = match ratio {
        Some(ratio) => (format!("{} ×", number(ratio.median)), range(ratio)),
        None => Default::default(),
    };
    let about = |aim: &&Aim| match aim.against {
        None => is_ours,
        Some(label) => label == series.label,
    };
    let aims: Vec<_> = figure.aims.iter().filter(about).map(|aim| verdict(figure, aim)).collect();
    vec![
        if is_ours { figure.title.to_owned() } else { String::new() },
        if is_ours { figure.database.to_owned() } else { String::new() },
        series.label.to_owned(),
        format!("{} {}", number(spread.median), figure.unit),
        range(spread),
        ratio,
        from_to,
        aims.join("; "),
    ]
}

fn range(spread: Spread) -> String {
    format!("{} – {}", number(spread.least), number(spread.most))
}

fn verdict(figure: &Figure, aim: &Aim) -> String {
    let bound = if aim.at_least { "at least" } else { "at most" };
    let verdict = match figure.reached(aim) {
        Some(value) if aim.holds(value) => "reached",
        Some(_) => "missed",
        None => "not measured",
    };
    format!("{bound} {}: {verdict}", aim.bound)
}

/// Three digits that matter, and thousands apart.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1_000.0 => {
            let digits = format!("{value:.0}");
            let groups = digits.as_bytes().rchunks(3).rev();
            let groups: Vec<_> = groups.map(|group| String::from_utf8_lossy(group)).collect();
            groups.join(",")
        }
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
