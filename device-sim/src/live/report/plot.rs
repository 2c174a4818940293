//! Plots as SVG inside HTML: few kinds of marks, colours by style sheet so that light and dark need no second picture,
//! and a native tooltip over every point, so that no script is needed. Libraries write colours and fonts into each mark.

#![allow(clippy::float_arithmetic, reason = "pixels of a picture; no money comes near")]

use std::fmt::Write as _;

use super::super::shown::{clock, grouped, kilobytes, latency, tenths};
use super::page::escaped;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 64.0;
/// Half of the widest label on the axis below.
const RIGHT: f64 = 34.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;
/// Labels on an axis of time.
const TIMES_MOST: u32 = 6;
const TIMES_S: [u32; 18] =
    [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 14_400, 21_600, 43_200];

pub(super) struct Plot {
    pub(super) title: String,
    /// What a point is.
    pub(super) note: String,
    pub(super) axis: Axis,
    pub(super) unit: Unit,
    pub(super) form: Form,
    /// Each with as many values as the axis has points.
    pub(super) series: Vec<Series>,
}

/// What the values are, and so how they are scaled: latencies by their logarithm, everything else from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    PerSecondThousandths,
    Micros,
    Count,
    Kilobytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Lines,
    /// One upon the other.
    Bars,
}

pub(super) struct Series {
    name: String,
    /// A class of the style sheet.
    color: &'static str,
    /// `None` is a gap.
    pub(super) values: Vec<Option<u64>>,
}

impl Series {
    pub(super) fn new(name: &str, color: &'static str, values: Vec<Option<u64>>) -> Self {
        Self { name: name.to_owned(), color, values }
    }
}

/// The horizontal axis.
pub(super) struct Axis {
    /// From 0 (left) to 1, and what a tooltip calls it.
    points: Vec<(f64, String)>,
    /// From 0 (left) to 1.
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// So many buckets of so many seconds each.
    pub(super) fn of_time(each_s: u32, count: usize, until_s: u32) -> Self {
        let whole = f64::from(until_s.max(1));
        let at = |second: u32| f64::from(second) / whole;
        let buckets = (0..u32::try_from(count).unwrap_or(u32::MAX)).map(|number| number * each_s);
        let point = |from: u32| {
            let to = (from + each_s).min(until_s);
            let name = match each_s {
                1 => clock(from.into()),
                _ => format!("{} to {}", clock(from.into()), clock(to.into())),
            };
            // In the middle of its seconds.
            ((at(from) + at(to)) / 2.0, name)
        };
        let step = TIMES_S.into_iter().find(|step| until_s / step < TIMES_MOST).unwrap_or(86_400);
        let ticks = (0..=until_s / step).map(|number| (at(number * step), clock(u64::from(number * step))));
        Self { points: buckets.map(point).collect(), ticks: ticks.collect() }
    }

    /// From 0% to so many nines, each nine as wide as the one before; and the quantiles of the points.
    pub(super) fn of_percentiles(nines: u32) -> (Self, Vec<f64>) {
        const STEPS: u32 = 12;
        let quantile = |tenths: f64| 1.0 - 10_f64.powf(-tenths);
        let numbers = (0..=nines * STEPS).map(|number| f64::from(number) / f64::from(STEPS));
        let quantiles: Vec<f64> = numbers.map(quantile).collect();
        let whole = f64::from(nines);
        let name = |quantile: f64| {
            let text = format!("{:.5}", quantile * 100.0);
            format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
        };
        let place = |quantile: f64| -(1.0 - quantile).log10() / whole;
        let points =
            quantiles.iter().map(|one| (place(*one), format!("p{}", name(*one).trim_end_matches('%'))));
        let mut ticks = vec![(place(0.5), "50%".to_owned())];
        ticks.extend((1..=nines).map(|nine| (f64::from(nine) / whole, name(quantile(nine.into())))));
        (Self { points: points.collect(), ticks }, quantiles)
    }
}

impl Plot {
    /// A `<figure>` with its caption, legend and picture.
    pub(super) fn figure(&self) -> String {
        let (title, note) = (escaped(&self.title), escaped(&self.note));
        let mut html = format!("<figure class=\"card\">\n<figcaption><h2>{title}</h2><p>{note}</p>\n");
        let most = self.most();
        if self.series.len() > 1 || self.form == Form::Bars && most > 0 {
            html.push_str("<ul class=\"legend\">");
            for Series { name, color, .. } in &self.series {
                let _ = write!(html, "<li><i class=\"{color}\"></i>{}</li>", escaped(name));
            }
            html.push_str("</ul>");
        }
        html.push_str("</figcaption>\n");
        if self.series.iter().all(|series| series.values.iter().all(Option::is_none)) || most == 0 {
            html.push_str("<p class=\"none\">None.</p>\n</figure>\n");
            return html;
        }
        let _ = writeln!(html, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">");
        let scale = Scale::of(self.unit, self.least(), most);
        self.push_axes(&scale, &mut html);
        match self.form {
            Form::Lines => self.series.iter().for_each(|series| self.push_line(series, &scale, &mut html)),
            Form::Bars => self.push_bars(&scale, &mut html),
        }
        self.push_tooltips(&mut html);
        html.push_str("</svg>\n</figure>\n");
        html
    }

    fn values(&self) -> impl Iterator<Item = u64> {
        self.series.iter().flat_map(|series| series.values.iter().flatten().copied())
    }

    fn least(&self) -> u64 {
        self.values().filter(|value| *value > 0).min().unwrap_or(1)
    }

    fn most(&self) -> u64 {
        match self.form {
            Form::Lines => self.values().max().unwrap_or(0),
            Form::Bars => {
                let values =
                    |at: usize| self.series.iter().filter_map(move |series| *series.values.get(at)?);
                (0..self.axis.points.len()).map(|at| values(at).sum()).max().unwrap_or(0)
            }
        }
    }

    fn push_axes(&self, scale: &Scale, svg: &mut String) {
        let right = WIDTH - RIGHT;
        for value in &scale.ticks {
            let y = scale.y(*value);
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>");
            let (x, y, text) = (LEFT - 7.0, y + 4.5, self.unit.tick(*value));
            let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{text}</text>");
        }
        let bottom = HEIGHT - BOTTOM;
        let _ = writeln!(svg, "<path class=\"base\" d=\"M{LEFT} {bottom}H{right}\"/>");
        for (place, text) in &self.axis.ticks {
            let (x, y) = (across(*place), HEIGHT - 7.0);
            let _ = writeln!(svg, "<path class=\"base\" d=\"M{x:.1} {bottom}v4\"/>");
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>");
        }
    }

    /// With a gap where nothing was measured; a point alone is a dot.
    fn push_line(&self, series: &Series, scale: &Scale, svg: &mut String) {
        let mut path = String::new();
        let mut last_was_gap = true;
        for ((place, _), value) in self.axis.points.iter().zip(&series.values) {
            let Some(value) = value else {
                last_was_gap = true;
                continue;
            };
            let (x, y) = (across(*place), scale.y(*value));
            // A line of no length has round ends, and so is a dot.
            let _ = match last_was_gap {
                true => write!(path, "M{x:.1} {y:.1}h0"),
                false => write!(path, "L{x:.1} {y:.1}"),
            };
            last_was_gap = false;
        }
        let _ = writeln!(svg, "<path class=\"line {}\" d=\"{path}\"/>", series.color);
    }

    fn push_bars(&self, scale: &Scale, svg: &mut String) {
        let width = match self.point_width() {
            // Gaps of less than a pixel would shimmer.
            narrow if narrow < 4.0 => narrow,
            wide => (wide * 0.8).min(24.0),
        };
        for (at, (place, _)) in self.axis.points.iter().enumerate() {
            let mut below = 0;
            for series in &self.series {
                let Some(value) = series.values.get(at).copied().flatten().filter(|value| *value > 0) else {
                    continue;
                };
                let (top, bottom) = (scale.y(below + value), scale.y(below));
                below += value;
                let (x, height) = (across(*place) - width / 2.0, bottom - top);
                let _ = writeln!(
                    svg,
                    "<rect class=\"{}\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>",
                    series.color
                );
            }
        }
    }

    /// A column over each point.
    fn push_tooltips(&self, svg: &mut String) {
        let (width, height) = (self.point_width(), HEIGHT - TOP - BOTTOM);
        for (at, (place, name)) in self.axis.points.iter().enumerate() {
            let mut text = escaped(name);
            for series in &self.series {
                let value = series.values.get(at).copied().flatten();
                let value = value.map_or_else(|| "–".to_owned(), |value| self.unit.exact(value));
                let _ = write!(text, "\n{}: {value}", escaped(&series.name));
            }
            let x = across(*place) - width / 2.0;
            let _ = writeln!(
                svg,
                "<rect class=\"hit\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"><title>{text}</title></rect>"
            );
        }
    }

    fn point_width(&self) -> f64 {
        (WIDTH - LEFT - RIGHT) / f64::from(u32::try_from(self.axis.points.len()).unwrap_or(u32::MAX).max(1))
    }
}

fn across(place: f64) -> f64 {
    LEFT + place * (WIDTH - LEFT - RIGHT)
}

/// The vertical axis.
struct Scale {
    is_logarithmic: bool,
    least: f64,
    most: f64,
    ticks: Vec<u64>,
}

impl Scale {
    fn of(unit: Unit, least: u64, most: u64) -> Self {
        if unit == Unit::Micros { Self::logarithmic(least, most) } else { Self::linear(unit, most) }
    }

    fn linear(unit: Unit, most: u64) -> Self {
        // Nothing that is counted here comes near; what does stands at the upper edge.
        let most = most.min(10_u64.pow(18));
        // No tick between whole things.
        let smallest = if unit == Unit::PerSecondThousandths { 100 } else { 1 };
        let steps = (0..18).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
        let step = steps.filter(|step| *step >= smallest).find(|step| most.div_ceil(*step) <= 5);
        let step = step.unwrap_or(most);
        let count = most.div_ceil(step).max(1);
        let ticks: Vec<u64> = (0..=count).map(|number| number * step).collect();
        Self { is_logarithmic: false, least: 0.0, most: (count * step) as f64, ticks }
    }

    /// From 1, 2 or 5 times a power of ten to another.
    fn logarithmic(least: u64, most: u64) -> Self {
        let round = (0..19).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
        let first = round.clone().take_while(|tick| *tick <= least.max(1)).last().unwrap_or(1);
        let last = round.clone().find(|tick| *tick > first && *tick >= most).unwrap_or(u64::MAX);
        let mut ticks: Vec<u64> = round.filter(|tick| (first..=last).contains(tick)).collect();
        if ticks.len() > 7 {
            ticks.retain(|tick| 10_u64.pow(tick.ilog10()) == *tick);
        }
        let (least, most) = ((first as f64).log10(), (last as f64).log10());
        Self { is_logarithmic: true, least, most, ticks }
    }

    fn y(&self, value: u64) -> f64 {
        let value = value as f64;
        let value = if self.is_logarithmic { value.max(1.0).log10() } else { value };
        let place = ((value - self.least) / (self.most - self.least)).clamp(0.0, 1.0);
        HEIGHT - BOTTOM - place * (HEIGHT - TOP - BOTTOM)
    }
}

impl Unit {
    fn exact(self, value: u64) -> String {
        match self {
            Self::PerSecondThousandths => format!("{}/s", tenths((value + 50) / 100)),
            Self::Micros => latency(value),
            Self::Count => grouped(value),
            Self::Kilobytes => kilobytes(value),
        }
    }

    /// As short as can be.
    fn tick(self, value: u64) -> String {
        match self {
            _ if value == 0 => "0".to_owned(),
            Self::PerSecondThousandths if value.is_multiple_of(1_000) => grouped(value / 1_000),
            Self::PerSecondThousandths => tenths(value / 100),
            Self::Micros if value >= 1_000_000 => format!("{} s", value / 1_000_000),
            Self::Micros if value >= 1_000 => format!("{} ms", value / 1_000),
            Self::Micros => format!("{value} us"),
            Self::Count => grouped(value),
            Self::Kilobytes if value >= 1_000 && value.is_multiple_of(1_000) => {
                format!("{} MB", value / 1_000)
            }
            Self::Kilobytes => kilobytes(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_scale_begins_at_nothing_and_has_few_round_ticks() {
        let cases: [(u64, &[u64]); 4] =
            [(1, &[0, 1]), (5, &[0, 1, 2, 3, 4, 5]), (6, &[0, 2, 4, 6]), (1_234, &[0, 500, 1_000, 1_500])];
        cases.iter().for_each(|(most, ticks)| assert_eq!(Scale::linear(Unit::Count, *most).ticks, *ticks));
        let scale = Scale::linear(Unit::Count, 10);
        assert_eq!((scale.y(0), scale.y(10)), (HEIGHT - BOTTOM, TOP));
        assert_eq!(Scale::linear(Unit::Count, u64::MAX).y(u64::MAX), TOP);
    }

    #[test]
    fn a_logarithmic_scale_has_round_bounds_around_the_values() {
        let cases: [(u64, u64, &[u64]); 4] = [
            (1, 1, &[1, 2]),
            (250, 900, &[200, 500, 1_000]),
            (1_000, 1_000, &[1_000, 2_000]),
            (90, 1_400_000, &[100, 1_000, 10_000, 100_000, 1_000_000]),
        ];
        for (least, most, ticks) in cases {
            let scale = Scale::logarithmic(least, most);
            assert_eq!(scale.ticks, ticks);
            assert!(scale.y(least) >= scale.y(most), "{least} is above {most}");
            assert!(scale.y(ticks[1]) < scale.y(ticks[0]));
        }
        assert!((Scale::logarithmic(10, 1_000).y(100) - (HEIGHT - BOTTOM + TOP) / 2.0).abs() < 1e-9);
    }

    #[test]
    fn axes_have_few_ticks_and_their_points_inside() {
        let cases: [(u32, &str); 5] =
            [(1, "0:01"), (10, "0:10"), (90, "1:20"), (1_800, "30:00"), (86_400, "24:00:00")];
        for (until_s, last) in cases {
            let each_s = until_s.div_ceil(240);
            let axis = Axis::of_time(each_s, until_s.div_ceil(each_s) as usize, until_s);
            assert!(axis.ticks.len() <= 7, "{} ticks for {until_s} s", axis.ticks.len());
            assert_eq!(axis.ticks.last().unwrap().1, last);
            assert!(axis.points.iter().chain(&axis.ticks).all(|(place, _)| (0.0..=1.0).contains(place)));
        }
        let (axis, quantiles) = Axis::of_percentiles(3);
        let ticks: Vec<&str> = axis.ticks.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(ticks, ["50%", "90%", "99%", "99.9%"]);
        assert_eq!(quantiles.len(), axis.points.len());
        assert!((axis.points.last().unwrap().0 - 1.0).abs() < 1e-9);
        assert_eq!(axis.points[24].1, "p99");
    }

    #[test]
    fn gaps_break_a_line_and_a_point_alone_is_a_dot() {
        let plot = Plot {
            title: "a <b>".to_owned(),
            note: String::new(),
            axis: Axis::of_time(1, 5, 5),
            unit: Unit::Count,
            form: Form::Lines,
            series: vec![Series::new("n", "c1", vec![Some(1), Some(2), None, Some(2), None])],
        };
        let html = plot.figure();
        let path = html.lines().find(|line| line.contains("class=\"line c1\"")).unwrap();
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 1), "{path}");
        assert!(html.contains("a &lt;b&gt;") && html.contains("<title>0:02\nn: –</title>"), "{html}");
    }
}
