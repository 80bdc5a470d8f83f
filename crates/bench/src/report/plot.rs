//! The figures as bars, one block for each figure: an SVG image without scripts or fonts of its own, for light and dark.

use std::fmt::Write;

use super::{Figure, Report, Spread, table::number};

const WIDTH: f64 = 760.0;
const LABEL_WIDTH: f64 = 190.0;
/// For the longest bar; the rest is for its number.
const BAR_WIDTH: f64 = 430.0;
const LINE: f64 = 22.0;
const BAR_HEIGHT: f64 = 14.0;
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#222}.title{font-weight:600}\
    .bar{fill:#9db4c8}.bar.ours{fill:#1f6fb2}.range{stroke:#222;stroke-width:1.5}\
    @media (prefers-color-scheme:dark){text{fill:#ddd}.range{stroke:#ddd}}";

/// The image.
pub(super) fn svg(report: &Report) -> String {
    let (mut y, mut body) = (LINE, String::new());
    for figure in &report.figures {
        block(figure, &mut y, &mut body);
    }
    let about = format!(
        "{}; median of {} rounds, lines from the least to the most; {}",
        report.machine, report.rounds, report.at
    );
    text(&mut body, 8.0, y + LINE, "", &about);
    let height = y + 2.0 * LINE;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Figures of nudge bench\"><style>{STYLE}</style>\n{body}</svg>\n"
    )
}

fn block(figure: &Figure, y: &mut f64, body: &mut String) {
    let title = format!("{}, {} ({})", figure.title, figure.database, figure.unit);
    text(body, 8.0, *y, "title", &title);
    let most = figure.series.iter().flat_map(|series| &series.values).copied();
    let scale = BAR_WIDTH / most.fold(f64::MIN_POSITIVE, f64::max);
    for (n, series) in figure.series.iter().enumerate() {
        let Some(spread) = Spread::of(series.values.iter().copied()) else { continue };
        *y += LINE;
        text(body, 16.0, *y, "", series.label);
        let class = if n == 0 { "bar ours" } else { "bar" };
        let (top, middle) = (*y - 11.0, *y - 4.0);
        let width = spread.median * scale;
        let x = |value: f64| LABEL_WIDTH + value * scale;
        let _ = writeln!(
            body,
            "<rect class=\"{class}\" x=\"{LABEL_WIDTH}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\"/>\
             <line class=\"range\" x1=\"{:.1}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\"/>",
            x(spread.least),
            x(spread.most),
        );
        text(body, x(spread.most) + 8.0, *y, "", &number(spread.median));
    }
    *y += 2.0 * LINE;
}

fn text(body: &mut String, x: f64, y: f64, class: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(body, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
}
