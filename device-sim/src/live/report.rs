//! The report of a load test: a table for people, JSON for programs, percentiles in the text form of HdrHistogram, and
//! one HTML file that needs nothing else.

mod page;
mod plot;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use comfy_table::CellAlignment;
use schemas::time::Timestamp;
use serde::Serialize;

use super::measured::{End, ErrorKind, Fault, Measured, Percentiles, Second, Step};
use super::scenario::Scenario;
use super::shown::{counted, grouped, latency, tenths};

/// Differences that a table and a page list at most.
const DIFFERENCES_MOST: usize = 50;

/// What the core's books say beside what devices and people saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct AuditVerdict {
    /// What was compared, and how many of it: nothing at all means that there was no audit.
    pub(crate) checked: Vec<(String, u64)>,
    /// Each a sentence for people.
    pub(crate) differences: Vec<String>,
}

impl AuditVerdict {
    /// Something was compared, and nothing differs.
    pub(crate) fn agrees(&self) -> bool {
        !self.checked.is_empty() && self.differences.is_empty()
    }

    fn headline(&self) -> String {
        match (self.checked.is_empty(), self.differences.len()) {
            (true, 0) => "Books not compared".to_owned(),
            (_, 0) => "Books agree".to_owned(),
            (_, count) => {
                let differences = counted(u64::try_from(count).unwrap_or(u64::MAX), "difference");
                format!("Books do not agree: {differences}")
            }
        }
    }
}

/// Where it ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_kb: u64,
    pub(crate) kernel: String,
    /// Median of a small fdatasync on the journal's disk, where it was measured.
    pub(crate) sync_us: Option<u64>,
}

impl Machine {
    /// Asks `/proc`; what that does not say is called unknown, or 0.
    pub(crate) fn look(sync_us: Option<u64>) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let unknown = || "unknown".to_owned();
        let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
        Self {
            processor: value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_kb: memory.trim_end_matches(" kB").parse().unwrap_or(0),
            kernel: if kernel.is_empty() { unknown() } else { format!("Linux {kernel}") },
            sync_us,
        }
    }

    fn describe(&self) -> Vec<(&'static str, String)> {
        let memory = match self.memory_kb {
            0 => "unknown".to_owned(),
            memory_kb => super::shown::kilobytes(memory_kb),
        };
        let mut rows = vec![
            ("Processor", self.processor.clone()),
            ("Cores", self.cores.to_string()),
            ("Memory", memory),
            ("Kernel", self.kernel.clone()),
        ];
        rows.extend(self.sync_us.map(|sync_us| ("fdatasync p50", latency(sync_us))));
        rows
    }
}

/// One run, at its end.
pub(crate) struct Report<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) measured: &'a Measured,
    pub(crate) machine: &'a Machine,
    pub(crate) verdict: &'a AuditVerdict,
    /// Somebody asked to stop before the scenario's time.
    pub(crate) stopped_early: bool,
}

impl Report<'_> {
    /// The books agree, and the fault mix explains everything that went wrong.
    pub(crate) fn is_good(&self) -> bool {
        self.verdict.agrees() && self.unexplained().is_empty()
    }

    /// The table for a terminal.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{}\n", self.scenario.title);
        let rows = self.scenario.describe().into_iter().chain(self.run()).chain(self.machine.describe());
        push_rows(&mut text, rows);
        text.push('\n');
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header(LATENCY_HEAD);
        for (step, percentiles) in self.steps() {
            table.add_row(std::iter::once(step.text().to_owned()).chain(cells(percentiles)));
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        table.lines().for_each(|line| text.push_str(&format!("{}\n", line.trim_end())));
        for (head, rows) in [("Ends", self.ends()), ("Errors", self.errors()), ("Faults", self.faults())] {
            let _ = write!(text, "\n{head}{}\n", if rows.is_empty() { ": none" } else { "" });
            push_rows(&mut text, rows.into_iter().map(|row| (row.text, row.shown())));
        }
        let _ = write!(text, "\n{}\n", self.verdict.headline());
        push_rows(
            &mut text,
            self.verdict.checked.iter().map(|(what, count)| (what.as_str(), grouped(*count))),
        );
        for difference in self.differences() {
            let _ = writeln!(text, "  - {difference}");
        }
        let _ = writeln!(text, "{}", self.explanation());
        text
    }

    /// Everything, with every second.
    ///
    /// # Errors
    /// Never in practice: all keys are strings.
    pub(crate) fn json(&self) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Json<'a> {
            good: bool,
            books_agree: bool,
            stopped_early: bool,
            /// Payments that ended per second while arrivals had their full rate, times ten.
            full_rate_per_10_s: u64,
            unexplained: Vec<(&'static str, u64)>,
            scenario: &'a Scenario,
            machine: &'a Machine,
            audit: &'a AuditVerdict,
            measured: &'a Measured,
        }
        serde_json::to_string_pretty(&Json {
            good: self.is_good(),
            books_agree: self.verdict.agrees(),
            stopped_early: self.stopped_early,
            full_rate_per_10_s: self.full_rate_tenths(),
            unexplained: self.unexplained(),
            scenario: self.scenario,
            machine: self.machine,
            audit: self.verdict,
            measured: self.measured,
        })
    }

    /// One HTML page with styles and plots inside.
    pub(crate) fn html(&self) -> String {
        page::page(self)
    }

    /// Writes `report.html`, `report.json` and a `.hgrm` file for each step into a directory, which it creates.
    ///
    /// # Errors
    /// A file cannot be written; the error names it.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let named = |path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("{} cannot be written: {error}", path.display()))
        };
        fs::create_dir_all(directory).map_err(|error| named(directory, error))?;
        let mut files =
            vec![("report.html".to_owned(), self.html()), ("report.json".to_owned(), self.json()?)];
        files.extend(self.steps().map(|(step, _)| (format!("{}.hgrm", step.code()), self.hgrm(step))));
        let write = |(name, text): (String, String)| {
            let path = directory.join(name);
            fs::write(&path, text).map_err(|error| named(&path, error))?;
            Ok(path)
        };
        files.into_iter().map(write).collect()
    }

    /// The percentiles of a step in milliseconds, in the text form that the tools around HdrHistogram plot.
    #[expect(clippy::float_arithmetic, reason = "the text form is made of floats")]
    pub(crate) fn hgrm(&self, step: Step) -> String {
        let histogram = self.measured.histogram(step);
        let mut text = format!(
            "{:>12} {:>14} {:>10} {:>14}\n\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        );
        let mut total = 0;
        // Five lines for each halving of the distance to 100%, as the tools do by default.
        for value in histogram.iter_quantiles(5) {
            total += value.count_since_last_iteration();
            let quantile = value.quantile_iterated_to();
            let milliseconds = value.value_iterated_to().min(histogram.max()) as f64 / 1_000.0;
            let _ = write!(text, "{milliseconds:>12.3} {quantile:>14.12} {total:>10}");
            match quantile < 1.0 {
                true => _ = writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile)),
                false => text.push('\n'),
            }
        }
        let (mean, deviation) = (histogram.mean() / 1_000.0, histogram.stdev() / 1_000.0);
        let most = histogram.max() as f64 / 1_000.0;
        let _ = writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
        let _ = writeln!(text, "#[Max     = {most:>12.3}, Total count    = {:>12}]", histogram.len());
        let _ = writeln!(
            text,
            "#[Buckets = {:>12}, SubBuckets     = {:>12}]",
            histogram.buckets(),
            histogram.distinct_values()
        );
        text
    }

    /// Steps that happened.
    fn steps(&self) -> impl Iterator<Item = (Step, Percentiles)> {
        let all = Step::ALL.iter().map(|step| (*step, self.measured.percentiles(*step)));
        all.filter(|(_, percentiles)| percentiles.count > 0)
    }

    fn ends(&self) -> Vec<Counted> {
        let faults = &self.scenario.faults;
        let count = |end: &End| Counted {
            text: end.text(),
            count: self.measured.end_count(*end),
            is_explained: end.is_expected(faults),
        };
        End::ALL.iter().map(count).filter(|row| row.count > 0).collect()
    }

    fn errors(&self) -> Vec<Counted> {
        let faults = &self.scenario.faults;
        let count = |kind: &ErrorKind| Counted {
            text: kind.text(),
            count: self.measured.error_count(*kind),
            is_explained: kind.is_expected(faults),
        };
        ErrorKind::ALL.iter().map(count).filter(|row| row.count > 0).collect()
    }

    /// What the fault mix did.
    fn faults(&self) -> Vec<Counted> {
        let count = |fault: &Fault| Counted {
            text: fault.text(),
            count: self.measured.fault_count(*fault),
            is_explained: true,
        };
        Fault::ALL.iter().map(count).filter(|row| row.count > 0).collect()
    }

    fn unexplained(&self) -> Vec<(&'static str, u64)> {
        self.measured.unexplained(&self.scenario.faults)
    }

    fn explanation(&self) -> String {
        let unexplained = self.unexplained();
        if unexplained.is_empty() {
            return "Nothing happened that the fault mix does not explain".to_owned();
        }
        let listed = unexplained.iter().map(|(text, count)| format!("{text} ({})", grouped(*count)));
        format!("Not explained by the fault mix: {}", listed.collect::<Vec<_>>().join(", "))
    }

    /// How it went, beside how it was meant to.
    fn run(&self) -> Vec<(&'static str, String)> {
        let measured = self.measured;
        let since = measured.started().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let started = Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)).to_string();
        let started = started.get(..19).unwrap_or(&started).replace('T', " ");
        let early = if self.stopped_early { "; stopped early" } else { "" };
        vec![
            ("Started", format!("{started} UTC{early}")),
            (
                "Payments",
                format!(
                    "{} begun, {} ended; {}/s at the full rate",
                    grouped(measured.payments_started_total()),
                    grouped(measured.payments_ended_total()),
                    tenths(self.full_rate_tenths()),
                ),
            ),
            (
                "MQTT messages",
                format!(
                    "{} sent, {} received",
                    grouped(measured.messages_sent_total()),
                    grouped(measured.messages_received_total()),
                ),
            ),
        ]
    }

    /// Seconds between the end of the ramp and the last arrival.
    fn at_full_rate(&self) -> impl Iterator<Item = &Second> {
        let Scenario { ramp_s, duration_s, .. } = self.scenario;
        self.measured.seconds().iter().filter(|second| (*ramp_s..*duration_s).contains(&second.second))
    }

    /// Payments that ended per second at the full rate, times ten; 0 of a run that ended before.
    fn full_rate_tenths(&self) -> u64 {
        let (mut ended, mut seconds) = (0, 0);
        for second in self.at_full_rate() {
            ended += u64::from(second.ended());
            seconds += u64::from(second.covers_s);
        }
        ended * 10 / seconds.max(1)
    }

    /// As many as a person reads, and how many more there are.
    fn differences(&self) -> Vec<String> {
        let all = &self.verdict.differences;
        let mut shown: Vec<String> = all.iter().take(DIFFERENCES_MOST).cloned().collect();
        if all.len() > DIFFERENCES_MOST {
            shown.push(format!("and {} more", all.len() - DIFFERENCES_MOST));
        }
        shown
    }
}

const LATENCY_HEAD: [&str; 7] = ["Latency", "count", "p50", "p90", "p99", "p99.9", "max"];

fn cells(percentiles: Percentiles) -> [String; 6] {
    let Percentiles { count, p50_us, p90_us, p99_us, p999_us, max_us } = percentiles;
    let [p50, p90, p99, p999, most] = [p50_us, p90_us, p99_us, p999_us, max_us].map(latency);
    [grouped(count), p50, p90, p99, p999, most]
}

/// A kind of end, error or fault that happened.
struct Counted {
    text: &'static str,
    count: u64,
    is_explained: bool,
}

impl Counted {
    fn shown(&self) -> String {
        let note = if self.is_explained { "" } else { "  (not explained by the fault mix)" };
        format!("{}{note}", grouped(self.count))
    }
}

fn push_rows<'a>(text: &mut String, rows: impl Iterator<Item = (&'a str, String)>) {
    let rows: Vec<_> = rows.collect();
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:<width$}  {value}");
    }
}

#[cfg(test)]
mod tests;
