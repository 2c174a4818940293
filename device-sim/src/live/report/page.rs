//! The page: what a reader wants first stands first. Everything that comes from outside is escaped; nothing is loaded.

use std::fmt::Write as _;

use super::super::measured::{End, ErrorKind, Latency, Second, Step};
use super::super::shown::{counted, grouped, latency, tenths};
use super::plot::{Axis, Form, Plot, Series, Unit};
use super::{Counted, LATENCY_HEAD, Report, cells};

/// Points of a plot over time: about as many as its pixels can tell apart.
const POINTS_MOST: u32 = 240;
/// Seconds that one point may stand for.
const BUCKETS_S: [u32; 14] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200];
/// What people feel first.
const PLOTTED: [Step; 4] = [Step::OrderToEnd, Step::AcceptedToDevice, Step::OrderToAccepted, Step::Puback];
const STYLE: &str = include_str!("page.css");

/// Ends that are neither delivered nor settled, as a plot tells them apart.
pub(super) const OTHER_ENDS: &[(&str, &str, &[End])] = &[
    ("refunded", "c2", &[End::Refunded]),
    ("reservation released", "c4", &[End::Voided]),
    ("delivered in part", "c3", &[End::DeliveredInPart]),
    ("the child said no", "c1", &[End::Rejected]),
    ("expired or withdrawn", "c6", &[End::Expired, End::Cancelled]),
    ("refused", "c7", &[End::Refused, End::Declined, End::BankRefused]),
    ("no end, or left to the operator", "c5", &[End::Operator, End::Unanswered]),
];

/// Errors, as a plot tells them apart.
pub(super) const ERRORS: &[(&str, &str, &[ErrorKind])] = &[
    ("connections", "c5", &[ErrorKind::ConnectFailed, ErrorKind::ConnectRefused, ErrorKind::ConnectionLost]),
    ("PUBACK refused", "c2", &[ErrorKind::PublishRefused]),
    ("wrong messages", "c4", &[ErrorKind::Unreadable, ErrorKind::Unexpected]),
    ("second ends", "c7", &[ErrorKind::SecondEnd]),
    ("the generator's own", "c6", &[ErrorKind::GeneratorLate]),
];

pub(super) fn page(report: &Report<'_>) -> String {
    let title = escaped(&report.scenario.title);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}: load test</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<p class=\"kind\">Load test</p>\n<h1>{title}</h1>\n"
    );
    let _ = writeln!(html, "<p class=\"run\">{}</p>\n</header>", escaped(&run_line(report)));
    html.push_str(&verdict(report));
    html.push_str(&tiles(report));
    html.push_str(&plots(report));
    html.push_str(&tables(report));
    html.push_str("</main>\n</body>\n</html>\n");
    html
}

/// For text and for attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // No character reference may stand for these.
            control if control.is_control() && control != '\n' => safe.push('\u{FFFD}'),
            other => safe.push(other),
        }
    }
    safe
}

fn run_line(report: &Report<'_>) -> String {
    let scenario = report.scenario.describe();
    let of = |name: &str| scenario.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
    let started = report.run().into_iter().next().map(|(_, value)| value);
    [started, of("Arrivals"), of("Transport")].into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

fn verdict(report: &Report<'_>) -> String {
    let audit = report.verdict;
    let mut html = String::from("<section class=\"verdict\" aria-label=\"Verdict\">\n");
    let checked: Vec<String> =
        audit.checked.iter().map(|(what, count)| format!("{} {what}", grouped(*count))).collect();
    let detail = match checked.is_empty() {
        true => "Nobody compared the books with what devices and people saw.".to_owned(),
        false => format!("Compared with what devices and people saw: {}.", checked.join(", ")),
    };
    let mut list = String::new();
    if !audit.differences.is_empty() {
        let items =
            report.differences().iter().map(|one| format!("<li>{}</li>\n", escaped(one))).collect::<String>();
        list = format!("<ul>\n{items}</ul>\n");
    }
    let mut card = |is_good: bool, head: &str, detail: &str, list: &str| {
        let (class, mark) = if is_good { ("good", "✔") } else { ("bad", "✘") };
        let _ = writeln!(
            html,
            "<div class=\"card {class}\"><h2><span aria-hidden=\"true\">{mark}</span> {}</h2>\n<p>{}</p>\n{list}</div>",
            escaped(head),
            escaped(detail)
        );
    };
    card(audit.agrees(), &audit.headline(), &detail, &list);
    let unexplained = report.unexplained();
    let happened: u64 = report.faults().iter().map(|row| row.count).sum();
    let faults = match happened {
        0 => "Nothing went wrong on purpose.".to_owned(),
        count => format!("{} on purpose, as the scenario asks.", counted(count, "fault")),
    };
    let head = match unexplained.is_empty() {
        true => "No unexplained error".to_owned(),
        false => counted(unexplained.iter().map(|(_, count)| count).sum(), "unexplained event"),
    };
    let detail = match unexplained.is_empty() {
        true => faults,
        false => format!("{faults} {}.", report.explanation()),
    };
    card(unexplained.is_empty(), &head, &detail, "");
    html.push_str("</section>\n");
    html
}

fn tiles(report: &Report<'_>) -> String {
    let measured = report.measured;
    let p99 = |step| match measured.percentiles(step) {
        percentiles if percentiles.count == 0 => "–".to_owned(),
        percentiles => latency(percentiles.p99_us),
    };
    let resident = measured.seconds().iter().filter_map(|second| second.resident_kb).max();
    let mut tiles = vec![
        ("payments per second", tenths(report.full_rate_tenths()), "ended, at the full rate"),
        ("payments", grouped(measured.payments_ended_total()), "ended, of all kinds"),
        ("order to end, p99", p99(Step::OrderToEnd), "from the intended beginning"),
        ("order at the device, p99", p99(Step::AcceptedToDevice), "from the acceptance"),
        ("refunds", grouped(measured.end_count(End::Refunded)), "settled money that went back"),
        ("errors", grouped(measured.errors_total()), "with those of the fault mix"),
    ];
    if let Some(resident_kb) = resident {
        tiles.push(("memory of the core", super::super::shown::kilobytes(resident_kb), "resident, at most"));
    }
    let tile = |(name, value, note): &(&str, String, &str)| {
        format!(
            "<div class=\"tile\"><span class=\"name\">{name}</span><strong>{value}</strong><small>{note}</small></div>\n"
        )
    };
    format!(
        "<section class=\"tiles\" aria-label=\"Key figures\">\n{}</section>\n",
        tiles.iter().map(tile).collect::<String>()
    )
}

fn plots(report: &Report<'_>) -> String {
    let buckets = Buckets::of(report.measured.seconds());
    let mut html = String::from("<section class=\"plots\" aria-label=\"Plots\">\n");
    if buckets.parts.is_empty() {
        html.push_str("<p>Not one whole second was measured: there is nothing to plot.</p>\n</section>\n");
        return html;
    }
    let mut all = vec![throughput(&buckets)];
    all.push(percentiles(report));
    let happened = PLOTTED.iter().filter(|step| report.measured.percentiles(**step).count > 0);
    all.extend(happened.map(|step| latency_over_time(&buckets, *step)));
    all.push(other_ends(&buckets));
    all.push(errors(&buckets));
    all.push(in_flight(&buckets));
    if report.measured.seconds().iter().any(|second| second.resident_kb.is_some()) {
        all.push(memory(&buckets));
    }
    all.iter().for_each(|plot| html.push_str(&plot.figure()));
    html.push_str("</section>\n");
    html
}

/// Seconds in groups, one for each point of a plot.
struct Buckets<'a> {
    each_s: u32,
    parts: Vec<&'a [Second]>,
    /// Where the last one ends.
    until_s: u32,
}

impl<'a> Buckets<'a> {
    fn of(seconds: &'a [Second]) -> Self {
        let until_s = seconds.last().map_or(0, |second| second.second.saturating_add(1));
        let each_s = BUCKETS_S.into_iter().find(|each_s| until_s.div_ceil(*each_s) <= POINTS_MOST);
        let each_s = each_s.unwrap_or_else(|| until_s.div_ceil(POINTS_MOST));
        let mut parts = Vec::new();
        for number in 0..until_s.div_ceil(each_s) {
            let from = seconds.partition_point(|second| second.second < number * each_s);
            let to = seconds.partition_point(|second| second.second / each_s <= number);
            parts.push(&seconds[from..to]);
        }
        Self { each_s, parts, until_s: until_s.max(1) }
    }

    fn axis(&self) -> Axis {
        Axis::of_time(self.each_s, self.parts.len(), self.until_s)
    }

    /// What one point stands for.
    fn note(&self, more_than_one: &str) -> String {
        match self.each_s {
            1 => "each second".to_owned(),
            each_s => format!("each point: {each_s} s, {more_than_one}"),
        }
    }

    /// Thousandths per second; nothing where no second was measured.
    fn rate(&self, value: impl Fn(&Second) -> u32) -> Vec<Option<u64>> {
        let mean = |part: &&[Second]| {
            let sum: u64 = part.iter().map(|second| u64::from(value(second))).sum();
            let covered_s: u64 = part.iter().map(|second| u64::from(second.covers_s)).sum();
            (sum * 1_000).checked_div(covered_s)
        };
        self.parts.iter().map(mean).collect()
    }

    fn sum(&self, value: impl Fn(&Second) -> u32) -> Vec<Option<u64>> {
        let sum = |part: &&[Second]| part.iter().map(|second| u64::from(value(second))).sum();
        self.parts.iter().map(|part| (!part.is_empty()).then(|| sum(part))).collect()
    }

    fn most(&self, value: impl Fn(&Second) -> Option<u64>) -> Vec<Option<u64>> {
        self.parts.iter().map(|part| part.iter().filter_map(&value).max()).collect()
    }

    fn middle(&self, value: impl Fn(&Second) -> Option<u64>) -> Vec<Option<u64>> {
        let middle = |part: &&[Second]| {
            let mut values: Vec<u64> = part.iter().filter_map(&value).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied()
        };
        self.parts.iter().map(middle).collect()
    }
}

fn throughput(buckets: &Buckets<'_>) -> Plot {
    let series = vec![
        Series::new("begun", "c6 below", buckets.rate(|second| second.started)),
        Series::new("ended", "c1", buckets.rate(Second::ended)),
    ];
    Plot {
        title: "Payments per second".to_owned(),
        note: buckets.note("mean"),
        axis: buckets.axis(),
        unit: Unit::PerSecondThousandths,
        form: Form::Lines,
        series,
    }
}

fn latency_over_time(buckets: &Buckets<'_>, step: Step) -> Plot {
    let of = |value: fn(Latency) -> u32| {
        move |second: &Second| {
            let latency = second.latency(step);
            (latency.count > 0).then(|| u64::from(value(latency)))
        }
    };
    let series = vec![
        Series::new("p50", "c1", buckets.middle(of(|latency| latency.p50_us))),
        Series::new("p99", "c2", buckets.most(of(|latency| latency.p99_us))),
    ];
    Plot {
        title: format!("Latency: {}", step.text()),
        note: buckets.note("p50 of the middle second, p99 of the worst one"),
        axis: buckets.axis(),
        unit: Unit::Micros,
        form: Form::Lines,
        series,
    }
}

/// Each step's latency at each percentile; the axis has one part for each nine.
fn percentiles(report: &Report<'_>) -> Plot {
    let most = report.steps().map(|(_, percentiles)| percentiles.count).max().unwrap_or(0);
    let nines = most.checked_ilog10().unwrap_or(0).clamp(2, 6);
    let (axis, quantiles) = Axis::of_percentiles(nines);
    let colors = ["c1", "c3", "c2", "c4"];
    let series = report.steps().map(|(step, percentiles)| {
        let histogram = report.measured.histogram(step);
        let value = |quantile: &f64| Some(histogram.value_at_quantile(*quantile).min(percentiles.max_us));
        let color = colors.get(step as usize).copied().unwrap_or("c6");
        Series::new(step.text(), color, quantiles.iter().map(value).collect())
    });
    Plot {
        title: "Latency by percentile".to_owned(),
        note: "the whole run".to_owned(),
        axis,
        unit: Unit::Micros,
        form: Form::Lines,
        series: series.collect(),
    }
}

fn other_ends(buckets: &Buckets<'_>) -> Plot {
    let count =
        |ends: &'static [End]| buckets.sum(move |second| ends.iter().map(|end| second.end_count(*end)).sum());
    let series = OTHER_ENDS.iter().map(|(name, color, ends)| Series::new(name, color, count(ends)));
    bars("Refunds and other ends", "neither delivered nor settled", buckets, series.collect())
}

fn errors(buckets: &Buckets<'_>) -> Plot {
    let count = |kinds: &'static [ErrorKind]| {
        buckets.sum(move |second| kinds.iter().map(|kind| second.error_count(*kind)).sum())
    };
    let series = ERRORS.iter().map(|(name, color, kinds)| Series::new(name, color, count(kinds)));
    bars("Errors", "with those of the fault mix", buckets, series.collect())
}

/// Of what happened at all.
fn bars(title: &str, note: &str, buckets: &Buckets<'_>, mut series: Vec<Series>) -> Plot {
    series.retain(|series| series.values.iter().flatten().any(|count| *count > 0));
    Plot {
        title: title.to_owned(),
        note: format!("{note}; {}", buckets.note("sum")),
        axis: buckets.axis(),
        unit: Unit::Count,
        form: Form::Bars,
        series,
    }
}

fn in_flight(buckets: &Buckets<'_>) -> Plot {
    Plot {
        title: "Payments in flight".to_owned(),
        note: buckets.note("most"),
        axis: buckets.axis(),
        unit: Unit::Count,
        form: Form::Lines,
        series: vec![Series::new("in flight", "c4", buckets.most(|second| Some(second.in_flight.into())))],
    }
}

fn memory(buckets: &Buckets<'_>) -> Plot {
    Plot {
        title: "Memory of the core".to_owned(),
        note: format!("resident; {}", buckets.note("most")),
        axis: buckets.axis(),
        unit: Unit::Kilobytes,
        form: Form::Lines,
        series: vec![Series::new("resident", "c3", buckets.most(|second| second.resident_kb))],
    }
}

const RUN: &str = "Run and scenario";

fn tables(report: &Report<'_>) -> String {
    let mut html = String::from("<section class=\"tables\" aria-label=\"Tables\">\n");
    let head: String = LATENCY_HEAD.iter().map(|name| format!("<th scope=\"col\">{name}</th>")).collect();
    let rows = report.steps().map(|(step, percentiles)| {
        let cells = cells(percentiles).iter().map(|cell| format!("<td>{cell}</td>")).collect::<String>();
        format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", step.text())
    });
    let rows: String = rows.collect();
    if !rows.is_empty() {
        let _ = writeln!(
            html,
            "<div class=\"card wide\"><h2>Latencies</h2><div class=\"scroll\"><table class=\"figures\">\
             <thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div></div>"
        );
    }
    let of = |rows: Vec<Counted>| rows.into_iter().map(|row| (row.text.to_owned(), row.shown())).collect();
    let named =
        |rows: Vec<(&str, String)>| rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut run = report.run();
    run.extend(report.scenario.describe());
    let cards: [(&str, Vec<(String, String)>); 5] = [
        ("Ends of payments", of(report.ends())),
        ("Errors", of(report.errors())),
        ("Faults on purpose", of(report.faults())),
        ("Machine", named(report.machine.describe())),
        (RUN, named(run)),
    ];
    for (title, rows) in cards {
        let class = if title == RUN { "card wide" } else { "card" };
        let _ = write!(html, "<div class=\"{class}\"><h2>{title}</h2>");
        if rows.is_empty() {
            html.push_str("<p>None.</p></div>\n");
            continue;
        }
        html.push_str("<table><tbody>\n");
        for (name, value) in rows {
            let _ = writeln!(
                html,
                "<tr><th scope=\"row\">{}</th><td>{}</td></tr>",
                escaped(&name),
                escaped(&value)
            );
        }
        html.push_str("</tbody></table></div>\n");
    }
    html.push_str("</section>\n");
    html
}
