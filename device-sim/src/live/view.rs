//! A load test while it runs: on a terminal a live screen, anywhere else a line on stderr every five seconds. `q`,
//! ctrl-C and SIGTERM ask to stop early; what has begun may still end, and the terminal is given back in any case.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Row, Sparkline, Table, Wrap};
use ratatui::{DefaultTerminal, Frame};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::measured::{End, ErrorKind, Measured, Step};
use super::shown::{clock, grouped, latency};

/// Between two lines where there is no screen.
const LINE_EVERY_S: u32 = 5;
/// Exit code of a program that a second ctrl-C ends.
const INTERRUPTED: i32 = 130;

/// What the person at the terminal wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Nothing,
    /// No more arrivals; what is open may end, and the report is made.
    Stop,
}

/// How far the run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) phase: Phase,
    /// Connections while connecting, else seconds.
    pub(crate) done: u64,
    /// 0: nobody knows.
    pub(crate) of: u64,
    /// Payments that have begun and not ended.
    pub(crate) in_flight: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    Running,
    /// No more arrivals; open payments end.
    Draining,
    /// The books are compared.
    Auditing,
}

/// Where the run is shown. Its end gives the terminal back; so does a panic, by the hook that ratatui sets.
pub(crate) struct View {
    output: Output,
    stop: Arc<AtomicBool>,
}

enum Output {
    Screen { terminal: Box<DefaultTerminal>, title: String, figures: Figures },
    Lines(Lines),
}

impl View {
    /// A screen where stdout is a terminal that no JSON will be written to.
    ///
    /// # Errors
    /// The terminal or the system's signals do not work.
    pub(crate) fn start(title: &str, json: bool) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        stop_by_signal(Arc::clone(&stop))?;
        let output = if io::stdout().is_terminal() && !json {
            let terminal = Box::new(ratatui::try_init()?);
            Output::Screen { terminal, title: title.to_owned(), figures: Figures::default() }
        } else {
            Output::Lines(Lines::default())
        };
        Ok(Self { output, stop })
    }

    /// Shows how it stands, and says what was asked for. Costs well under a millisecond; about four times a second.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(crate) fn show(&mut self, measured: &Measured, progress: Progress) -> io::Result<Asked> {
        match &mut self.output {
            Output::Screen { terminal, title, figures } => {
                figures.refresh(measured);
                terminal.draw(|frame| draw(frame, title, measured, progress, figures))?;
                while event::poll(Duration::ZERO)? {
                    if let Event::Key(key) = event::read()?
                        && is_stop(key)
                    {
                        self.stop.store(true, Ordering::Relaxed);
                    }
                }
            }
            Output::Lines(lines) => {
                if let Some(line) = lines.next(measured, progress) {
                    writeln!(io::stderr(), "{line}")?;
                }
            }
        }
        Ok(if self.stop.load(Ordering::Relaxed) { Asked::Stop } else { Asked::Nothing })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // From now on nobody reads what is asked: the next signal ends the program.
        self.stop.store(true, Ordering::Relaxed);
        if matches!(self.output, Output::Screen { .. }) {
            ratatui::restore();
        }
    }
}

/// The first signal asks, the second one ends the program; the screen makes keys of ctrl-C, so there it is SIGTERM.
fn stop_by_signal(stop: Arc<AtomicBool>) -> io::Result<()> {
    let (ready, is_ready) = mpsc::channel();
    let wait = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        runtime.block_on(async {
            let signals = signal(SignalKind::interrupt()).and_then(|interrupt| {
                let terminate = signal(SignalKind::terminate())?;
                Ok((interrupt, terminate))
            });
            match signals {
                Ok((interrupt, terminate)) => {
                    let _ = ready.send(Ok(()));
                    obey(interrupt, terminate, &stop).await;
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("the thread for signals has ended")))
}

async fn obey(mut interrupt: Signal, mut terminate: Signal, stop: &AtomicBool) {
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if stop.swap(true, Ordering::Relaxed) {
            if io::stdout().is_terminal() {
                ratatui::restore();
            }
            std::process::exit(INTERRUPTED);
        }
    }
}

fn is_stop(key: KeyEvent) -> bool {
    // The terminal makes no signal of ctrl-C while the screen is on.
    let controlled = key.modifiers.contains(KeyModifiers::CONTROL);
    let wanted = key.code == KeyCode::Char('q') || (controlled && key.code == KeyCode::Char('c'));
    wanted && key.kind == KeyEventKind::Press
}

/// What costs more than a glance, counted once for each second that is over.
#[derive(Default)]
struct Figures {
    seconds: usize,
    /// For each step: p50 and p99 of the last second, p50 and p99 of the run.
    latencies: Vec<[u64; 4]>,
    /// Payments that ended, second by second.
    ended: Vec<u64>,
    /// p99 from order to end, second by second.
    p99_us: Vec<u64>,
}

impl Figures {
    /// As many seconds as a wide terminal has columns.
    const SECONDS: usize = 400;

    fn refresh(&mut self, measured: &Measured) {
        let seconds = measured.seconds();
        if seconds.len() == self.seconds && !self.latencies.is_empty() {
            return;
        }
        self.seconds = seconds.len();
        let last = seconds.last().copied().unwrap_or_default();
        let of = |step: &Step| {
            let (second, run) = (last.latency(*step), measured.percentiles(*step));
            [second.p50_us.into(), second.p99_us.into(), run.p50_us, run.p99_us]
        };
        self.latencies = Step::ALL.iter().map(of).collect();
        let newest = &seconds[seconds.len().saturating_sub(Self::SECONDS)..];
        self.ended = newest.iter().map(|second| second.ended().into()).collect();
        self.p99_us = newest.iter().map(|second| second.latency(Step::OrderToEnd).p99_us.into()).collect();
    }
}

fn draw(frame: &mut Frame<'_>, title: &str, measured: &Measured, progress: Progress, figures: &Figures) {
    let block = Block::bordered()
        .title(format!(" device-sim live: {title} "))
        .title_bottom(Line::from(" q or ctrl-C: stop early ").right_aligned());
    let inside = block.inner(frame.area());
    frame.render_widget(block, frame.area());
    let steps = u16::try_from(Step::ALL.len()).unwrap_or(u16::MAX);
    let rows = [1, 1, 1, 1, steps + 1, 1, 2, 2].map(Constraint::Length);
    let [gauge, _, rates, _, table, _, ends, errors, below] =
        Layout::vertical(rows.into_iter().chain([Constraint::Min(0)])).areas(inside);
    frame.render_widget(bar(progress), gauge);
    frame.render_widget(rates_line(measured, progress), rates);
    draw_latencies(frame, table, figures);
    frame.render_widget(counted_line("Ends    ", ends_counted(measured), Color::Reset), ends);
    frame.render_widget(counted_line("Errors  ", errors_counted(measured), Color::Red), errors);
    let [left, right] = Layout::horizontal([Constraint::Fill(1); 2]).spacing(2).areas(below);
    let most = figures.ended.iter().max().copied().unwrap_or(0);
    sparkline(frame, left, format!("payments ended per second, at most {}", grouped(most)), &figures.ended);
    let worst = figures.p99_us.iter().max().copied().unwrap_or(0);
    sparkline(frame, right, format!("p99 of order to end, at most {}", latency(worst)), &figures.p99_us);
}

fn bar(progress: Progress) -> Gauge<'static> {
    let Progress { phase, done, of, .. } = progress;
    let label = match phase {
        Phase::Connecting => format!("connecting: {} of {}", grouped(done), grouped(of)),
        Phase::Running => format!("running: {} of {}", clock(done), clock(of)),
        Phase::Draining => format!("what is open may end: {} of {}", clock(done), clock(of)),
        Phase::Auditing => "comparing the books".to_owned(),
    };
    let percent = done.min(of) * 100 / of.max(1);
    Gauge::default()
        .gauge_style(Style::new().fg(Color::Blue).bg(Color::DarkGray))
        .label(Span::from(label).white().bold())
        .percent(u16::try_from(percent).unwrap_or(100))
}

fn rates_line(measured: &Measured, progress: Progress) -> Paragraph<'static> {
    let last = measured.seconds().last().copied().unwrap_or_default();
    let errors = measured.errors_total();
    let bold = |text: String| Span::from(text).bold();
    let mut spans = vec![
        "started ".into(),
        bold(format!("{}/s", grouped(last.started.into()))),
        "   ended ".into(),
        bold(format!("{}/s", grouped(last.ended().into()))),
        "   in flight ".into(),
        bold(grouped(progress.in_flight)),
        "   errors ".into(),
        if errors == 0 { bold("0".to_owned()) } else { bold(grouped(errors)).red() },
    ];
    if let Some(resident_kb) = last.resident_kb {
        spans.extend(["   core ".into(), bold(super::shown::kilobytes(resident_kb))]);
    }
    Paragraph::new(Line::from(spans))
}

fn draw_latencies(frame: &mut Frame<'_>, area: Rect, figures: &Figures) {
    let rows = Step::ALL.iter().zip(&figures.latencies).map(|(step, values)| {
        let value = |micros: &u64| if *micros == 0 { "-".to_owned() } else { latency(*micros) };
        let cells = values.iter().map(|micros| Line::from(value(micros)).right_aligned());
        Row::new(std::iter::once(Line::from(step.text())).chain(cells))
    });
    let heads = ["p50 now", "p99 now", "p50 run", "p99 run"].map(|head| Line::from(head).right_aligned());
    let head = Row::new(std::iter::once(Line::from("Latency")).chain(heads)).dim();
    let widths = [32, 11, 11, 11, 11].map(Constraint::Length);
    frame.render_widget(Table::new(rows, widths).header(head), area);
}

fn ends_counted(measured: &Measured) -> Vec<(&'static str, u64)> {
    End::ALL.iter().map(|end| (end.text(), measured.end_count(*end))).collect()
}

fn errors_counted(measured: &Measured) -> Vec<(&'static str, u64)> {
    ErrorKind::ALL.iter().map(|kind| (kind.text(), measured.error_count(*kind))).collect()
}

fn counted_line(head: &'static str, counts: Vec<(&'static str, u64)>, color: Color) -> Paragraph<'static> {
    let mut spans = vec![Span::from(head).dim()];
    for (text, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        let separator = if spans.len() == 1 { "" } else { ", " };
        spans.push(format!("{separator}{text} ").into());
        spans.push(Span::from(grouped(count)).bold().fg(color));
    }
    if spans.len() == 1 {
        spans.push("none".into());
    }
    Paragraph::new(Line::from(spans)).wrap(Wrap { trim: true })
}

/// The newest values at the right.
fn sparkline(frame: &mut Frame<'_>, area: Rect, title: String, values: &[u64]) {
    let from = values.len().saturating_sub(area.width.into());
    let block = Block::new().title(Line::from(title).dim());
    frame.render_widget(
        Sparkline::default().block(block).data(&values[from..]).style(Style::new().fg(Color::Blue)),
        area,
    );
}

/// Lines for a log.
#[derive(Default)]
struct Lines {
    phase: Option<Phase>,
    /// Seconds that earlier lines have told of.
    told: usize,
    next_at_s: u64,
}

impl Lines {
    /// One when the phase changes, and every five seconds.
    fn next(&mut self, measured: &Measured, progress: Progress) -> Option<String> {
        let Progress { phase, done, of, in_flight } = progress;
        let begins = self.phase != Some(phase);
        self.phase = Some(phase);
        if begins {
            self.next_at_s = u64::from(LINE_EVERY_S);
        }
        match phase {
            Phase::Connecting => begins.then(|| format!("connecting {} clients", grouped(of))),
            Phase::Auditing => begins.then(|| "comparing the books".to_owned()),
            Phase::Draining if begins => {
                Some(format!("no more arrivals; {} payments are open", grouped(in_flight)))
            }
            Phase::Running if begins => Some(format!("running for {}", clock(of))),
            Phase::Running | Phase::Draining if done >= self.next_at_s => {
                self.next_at_s = done + u64::from(LINE_EVERY_S);
                Some(self.line(measured, progress))
            }
            Phase::Running | Phase::Draining => None,
        }
    }

    fn line(&mut self, measured: &Measured, progress: Progress) -> String {
        let seconds = &measured.seconds()[self.told.min(measured.seconds().len())..];
        self.told = measured.seconds().len();
        let count = seconds.iter().map(|second| u64::from(second.covers_s)).sum::<u64>().max(1);
        let mean = |sum: u64| grouped(sum / count);
        let started: u64 = seconds.iter().map(|second| u64::from(second.started)).sum();
        let ended: u64 = seconds.iter().map(|second| u64::from(second.ended())).sum();
        let latencies = seconds.iter().map(|second| second.latency(Step::OrderToEnd));
        let mut p50s: Vec<u32> = latencies.clone().map(|latency| latency.p50_us).collect();
        p50s.sort_unstable();
        let p50 = p50s.get(p50s.len() / 2).copied().unwrap_or(0);
        let p99 = latencies.map(|latency| latency.p99_us).max().unwrap_or(0);
        format!(
            "{:>8}  started {}/s  ended {}/s  in flight {}  errors {}  order to end p50 {} p99 {}",
            clock(progress.done),
            mean(started),
            mean(ended),
            grouped(progress.in_flight),
            grouped(measured.errors_total()),
            latency(p50.into()),
            latency(p99.into()),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn busy(seconds: u32) -> Measured {
        let mut measured = Measured::new(SystemTime::UNIX_EPOCH);
        for second in 0..seconds {
            for number in 0..1_200 {
                measured.payment_started();
                measured.record(Step::OrderToEnd, 2_000 + number);
                measured.ended(if number == 0 { End::Refunded } else { End::Delivered });
            }
            measured.tick(second, 7, Some(12_345));
        }
        measured
    }

    fn running(done: u64) -> Progress {
        Progress { phase: Phase::Running, done, of: 60, in_flight: 7 }
    }

    fn picture(measured: &Measured, progress: Progress, size: (u16, u16)) -> String {
        let mut figures = Figures::default();
        figures.refresh(measured);
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        terminal.draw(|frame| draw(frame, "a test", measured, progress, &figures)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_shows_rates_latencies_ends_errors_and_progress() {
        let mut measured = busy(12);
        measured.error(ErrorKind::SecondEnd);
        let picture = picture(&measured, running(12), (100, 30));
        for part in [
            "device-sim live: a test",
            "q or ctrl-C: stop early",
            "running: 0:12 of 1:00",
            "started 1,200/s   ended 1,200/s   in flight 7   errors 1   core 12.3 MB",
            "p99 run",
            "accepted to message at device ",
            "order to end                         2.",
            "delivered 14,388, refunded 12",
            "a second, different end of one payment 1",
            "payments ended per second, at most 1,200",
            "p99 of order to end, at most 3.",
            "█",
        ] {
            assert!(picture.contains(part), "{part:?} is not in\n{picture}");
        }
    }

    #[test]
    fn a_screen_before_anything_happened_or_without_room_is_drawn_all_the_same() {
        let none = Measured::new(SystemTime::UNIX_EPOCH);
        let connecting = Progress { phase: Phase::Connecting, done: 3_000, of: 18_000, in_flight: 0 };
        let first = picture(&none, connecting, (80, 24));
        assert!(first.contains("connecting: 3,000 of 18,000") && first.contains("Errors  none"), "{first}");
        for (progress, size) in [(running(0), (1, 1)), (running(61), (20, 6)), (connecting, (300, 5))] {
            picture(&busy(500), progress, size);
        }
        let unknown = Progress { phase: Phase::Auditing, done: 0, of: 0, in_flight: 0 };
        assert!(picture(&none, unknown, (80, 24)).contains("comparing the books"));
    }

    #[test]
    fn a_log_has_a_line_for_each_phase_and_one_every_five_seconds() {
        let mut lines = Lines::default();
        let connecting = Progress { phase: Phase::Connecting, done: 0, of: 18_000, in_flight: 0 };
        let mut told = vec![lines.next(&busy(0), connecting), lines.next(&busy(0), connecting)];
        // Four times a second, as the engine does.
        for quarter in 0..44_u32 {
            told.push(lines.next(&busy(quarter / 4), running(u64::from(quarter / 4))));
        }
        let draining = Progress { phase: Phase::Draining, done: 0, of: 30, in_flight: 7 };
        told.push(lines.next(&busy(11), draining));
        told.push(lines.next(&busy(11), draining));
        let told: Vec<String> = told.into_iter().flatten().collect();
        assert_eq!(told.len(), 5, "{told:#?}");
        assert_eq!(told[0], "connecting 18,000 clients");
        assert_eq!(told[1], "running for 1:00");
        let rate = "started 1,200/s  ended 1,200/s  in flight 7  errors 0  order to end p50 2.";
        assert!(told[2].starts_with("    0:05  ") && told[2].contains(rate), "{}", told[2]);
        assert!(told[3].starts_with("    0:10  ") && told[3].contains(rate), "{}", told[3]);
        assert_eq!(told[4], "no more arrivals; 7 payments are open");
    }

    #[test]
    fn q_and_ctrl_c_stop_and_no_other_key_does() {
        let key = |code, modifiers| KeyEvent::new(code, modifiers);
        assert!(is_stop(key(KeyCode::Char('q'), KeyModifiers::NONE)));
        assert!(is_stop(key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(!is_stop(key(KeyCode::Char('c'), KeyModifiers::NONE)));
        assert!(!is_stop(key(KeyCode::Esc, KeyModifiers::NONE)));
    }

    /// ctrl-C where there is no screen, and `kill`.
    #[test]
    fn a_signal_asks_to_stop() {
        let mut view = View::start("signals", true).unwrap();
        let measured = Measured::new(SystemTime::UNIX_EPOCH);
        assert_eq!(view.show(&measured, running(0)).unwrap(), Asked::Nothing);
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::INT).unwrap();
        while view.show(&measured, running(0)).unwrap() == Asked::Nothing {
            thread::yield_now();
        }
    }
}
