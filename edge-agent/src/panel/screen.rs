//! The prompt on the terminal in which the agent runs. A thread of its own draws and reads keys, so that a slow disk
//! freezes neither; what it knows is the [`View`], what it says is an answer to the prompt in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, mem};

use edge_agent_device::{OpenCode, PromptEnd, PromptResult, ShownCode};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Padding, Paragraph, Wrap};
use ratatui::{DefaultTerminal, Frame};
use schemas::message::{ChildAnswer, ChildView, PaymentState};
use schemas::money::Money;

use super::wish::{result_line, wish_lines};
use super::{Keys, PanelError, Shown, View, plain};
use crate::clock::boot_ms;
use crate::code::as_lines;

/// The countdown moves at least this often.
const REDRAW: Duration = Duration::from_millis(100);
/// The newest results, beside a prompt and without one.
const RESULTS: (u16, u16) = (3, 10);
/// Rows of a prompt without large letters, with the notice below it and the headline of the results.
const QUESTION_ROWS: u16 = 12;
/// The same without a prompt.
const IDLE_ROWS: u16 = 3;
/// Rows of a prompt with its amount in large letters.
const LARGE_ROWS: u16 = 15;

/// The screen at work. Its end gives the terminal back; so does a panic, by the hook that ratatui sets.
#[derive(Debug)]
pub(super) struct Screen {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Screen {
    pub(super) fn start(mut keys: Keys) -> Result<Self, PanelError> {
        let mut terminal = ratatui::try_init().map_err(PanelError::Terminal)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let draw = move || {
            if let Err(error) = run(&mut terminal, &mut keys, &stopped) {
                tracing::error!(%error, "the terminal is gone: the agent ends");
                keys.quit();
            }
        };
        match thread::Builder::new().name("screen".to_owned()).spawn(draw) {
            Ok(thread) => Ok(Self { stop, thread: Some(thread) }),
            Err(error) => {
                ratatui::restore();
                Err(PanelError::Thread(error))
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported where it happened.
            let _ = thread.join();
        }
        ratatui::restore();
    }
}

fn run(terminal: &mut DefaultTerminal, keys: &mut Keys, stop: &AtomicBool) -> io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let view = keys.view();
        terminal.draw(|frame| draw(frame, &view, boot_ms()))?;
        keys.drawn(&view, boot_ms());
        if !event::poll(REDRAW)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        match meaning(key) {
            Some(Meaning::Answer(answer)) => _ = keys.press(answer, boot_ms()),
            Some(Meaning::Code) => keys.ask_for_code(),
            Some(Meaning::Quit) => keys.quit(),
            None => {}
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Answer(ChildAnswer),
    Code,
    Quit,
}

fn meaning(key: KeyEvent) -> Option<Meaning> {
    if key.kind != KeyEventKind::Press {
        return None;
    }
    // The terminal makes no signal of it while the screen is on.
    let controlled = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if controlled => Some(Meaning::Quit),
        KeyCode::Char('q') => Some(Meaning::Quit),
        KeyCode::Char('c' | 'C') => Some(Meaning::Code),
        KeyCode::Enter | KeyCode::Char('y' | 'Y') => Some(Meaning::Answer(ChildAnswer::Confirm)),
        KeyCode::Esc | KeyCode::Char('n' | 'N') => Some(Meaning::Answer(ChildAnswer::Reject)),
        _ => None,
    }
}

fn draw(frame: &mut Frame<'_>, view: &View, now_boot_ms: u64) {
    let connection = match (view.connected, view.knows_time) {
        (true, true) => Span::styled(" connected ", Style::new().fg(Color::Green)),
        (true, false) => Span::styled(" connected, waits for the time ", Style::new().fg(Color::Yellow)),
        (false, _) => Span::styled(" NOT connected ", Style::new().fg(Color::Red)),
    };
    let block = Block::bordered()
        .title(format!(" Piggy bank {} ", view.principal))
        .title(Line::from(connection).alignment(Alignment::Right))
        .title_bottom(" q quits ")
        .padding(Padding::horizontal(2));
    let inside = block.inner(frame.area());
    frame.render_widget(block, frame.area());
    let shown = view.shown.as_ref().filter(|shown| now_boot_ms <= shown.prompt.until_boot_ms);
    let code = view.code.as_ref().filter(|code| shown.is_none() && now_boot_ms <= code.until_boot_ms);
    if let Some(code) = code {
        return draw_code(frame, inside, code, view, now_boot_ms);
    }
    let (beside, alone) = RESULTS;
    // Where there is little room, the question has it.
    let (most, needed) = if shown.is_some() { (beside, QUESTION_ROWS) } else { (alone, IDLE_ROWS) };
    let most = most.min(inside.height.saturating_sub(needed));
    let rows = [Constraint::Min(0), Constraint::Length(1), Constraint::Length(most + 1)];
    let [question, notice, results] = Layout::vertical(rows).areas(inside);
    match shown {
        Some(shown) => draw_prompt(frame, question, shown, view.more, now_boot_ms),
        None => {
            let text = if view.knows_time { "Nothing to answer." } else { "Waiting for the cloud's time." };
            let purse = view.child.iter().flat_map(|child| [vec![String::new()], purse(child)].concat());
            let codes = view.codes.iter().flat_map(waiting_code);
            let wishes = wish_lines(&view.wishes);
            let lines = [text.to_owned()].into_iter().chain(codes).chain(purse).chain(wishes);
            let lines: Vec<_> = lines.map(Line::raw).collect();
            frame.render_widget(Paragraph::new(lines).alignment(Alignment::Center), question);
        }
    }
    if let Some(text) = &view.notice {
        frame.render_widget(Paragraph::new(text.as_str()).style(Style::new().fg(Color::Yellow)), notice);
    }
    draw_results(frame, results, view);
}

fn draw_prompt(frame: &mut Frame<'_>, area: Rect, shown: &Shown, more: usize, now_boot_ms: u64) {
    let prompt = &shown.prompt.prompt;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut lines = vec![
        Line::from(vec![Span::styled(prompt.guardian.to_string(), bold), Span::raw(" asks you to pay")]),
        Line::raw(""),
    ];
    let amount =
        if area.height >= LARGE_ROWS { large(prompt.amount) } else { vec![prompt.amount.to_string()] };
    lines.extend(amount.into_iter().map(|row| Line::styled(row, bold)));
    lines.push(Line::raw(""));
    let categories: Vec<_> = prompt.categories.iter().map(|category| category.as_str()).collect();
    lines.push(Line::from(vec![
        Span::raw("to "),
        Span::styled(plain(prompt.payee.as_str()), bold),
        Span::raw(format!("  for {}", categories.join(", "))),
    ]));
    if prompt.ordered != prompt.amount {
        lines.push(Line::raw(format!("({} was asked for: this is what you have)", prompt.ordered)));
    }
    if let Some(note) = &prompt.note {
        lines.push(Line::raw(format!("\u{201c}{}\u{201d}", plain(note.as_str()))));
    }
    let rows = [Constraint::Min(0), Constraint::Length(1), Constraint::Length(2)];
    let [words, countdown, hint] = Layout::vertical(rows).areas(area);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), words);
    let left_ms = shown.prompt.until_boot_ms.saturating_sub(now_boot_ms);
    let whole_ms = shown.prompt.until_boot_ms.saturating_sub(shown.since_boot_ms).max(1);
    let percent = u16::try_from((left_ms.saturating_mul(100) / whole_ms).min(100)).unwrap_or(100);
    let seconds = left_ms / 1000;
    let gauge = Gauge::default()
        .percent(percent)
        .label(format!("{}:{:02}", seconds / 60, seconds % 60))
        .gauge_style(Style::new().fg(Color::Blue));
    frame.render_widget(gauge, countdown);
    let mut hints = Line::from(vec![
        Span::styled(" Enter or y ", Style::new().bg(Color::Green).fg(Color::Black)),
        Span::raw(" yes, pay    "),
        Span::styled(" n or Esc ", Style::new().bg(Color::Red).fg(Color::Black)),
        Span::raw(" no"),
    ]);
    if more > 0 {
        hints.push_span(Span::raw(format!("    ({more} more after this one)")));
    }
    frame.render_widget(Paragraph::new(vec![Line::raw(""), hints]), hint);
}

/// How long the child may pay with it. What is shown is judged again before that.
fn left_ms(code: &ShownCode, view: &View, now_boot_ms: u64) -> u64 {
    let open = view.codes.iter().find(|open| open.payment == code.payment);
    let since_ms = now_boot_ms.saturating_sub(view.as_of_boot_ms);
    let left_ms = open.and_then(|open| open.remaining_ms).map(|left_ms| left_ms.saturating_sub(since_ms));
    left_ms.unwrap_or_else(|| code.until_boot_ms.saturating_sub(now_boot_ms))
}

/// The code with what it is for (PC-6); where it finds no room, how large the terminal would have to be.
fn draw_code(frame: &mut Frame<'_>, area: Rect, code: &ShownCode, view: &View, now_boot_ms: u64) {
    let seconds = left_ms(code, view, now_boot_ms) / 1000;
    let head = format!(
        "Pay {} to {}: hold this before the scanner, {}:{:02} left",
        code.amount,
        plain(code.payee.as_str()),
        seconds / 60,
        seconds % 60
    );
    let rows = [Constraint::Length(1), Constraint::Length(1), Constraint::Min(0)];
    let [words, beside, picture] = Layout::vertical(rows).areas(area);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Paragraph::new(head).style(bold).alignment(Alignment::Center), words);
    let notice = view.notice.as_deref();
    let notice = Paragraph::new(notice.unwrap_or_default()).style(Style::new().fg(Color::Yellow));
    frame.render_widget(notice, beside);
    let lines = as_lines(code.text.as_str()).unwrap_or_else(|error| error.to_string());
    let (width, height) =
        (lines.lines().map(|line| line.chars().count()).max().unwrap_or(0), lines.lines().count());
    if width > usize::from(picture.width) || height > usize::from(picture.height) {
        let whole = frame.area();
        let (columns, rows) = (
            usize::from(whole.width) + width.saturating_sub(usize::from(picture.width)),
            usize::from(whole.height) + height.saturating_sub(usize::from(picture.height)),
        );
        let text = format!(
            "This terminal is too small for the code, which takes {columns} columns and {rows} rows: make it larger, or \
             use `edge-agent code show {} --png FILE`.",
            code.payment
        );
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), picture);
        return;
    }
    // What shines must be the light modules, whatever the terminal's own colours are.
    let style = Style::new().fg(Color::White).bg(Color::Black);
    let across = Rect {
        x: picture.x + (picture.width - u16::try_from(width).unwrap_or(picture.width)) / 2,
        width: u16::try_from(width).unwrap_or(picture.width),
        height: u16::try_from(height).unwrap_or(picture.height),
        ..picture
    };
    frame.render_widget(Paragraph::new(lines).style(style), across);
}

/// A code that is not shown now, and how it would be (PC-9).
fn waiting_code(code: &OpenCode) -> Vec<String> {
    let what = format!("{} to {}", code.amount, plain(code.payee.as_str()));
    let how = match &code.not_now {
        None => "press c to show the code".to_owned(),
        Some((_, why)) => plain(why),
    };
    vec![String::new(), format!("Pay {what}: {how}")]
}

/// What the child has and can look forward to, in lines (PC-14). Amounts are those of a time, which stands beside.
pub(crate) fn purse(view: &ChildView) -> Vec<String> {
    let mut lines = vec![format!("{} has {} (as of {})", view.child, view.available, view.as_of)];
    lines.extend(view.goals.iter().map(|goal| {
        // Whole percents, rounded down: nobody has all of it before it is all there.
        let percent = (view.available.minor.saturating_mul(100) / goal.amount.minor.max(1)).min(100);
        format!("saving for {}: {percent}% of {}", plain(goal.title.as_str()), goal.amount)
    }));
    lines.extend(view.allowances.iter().map(|coming| {
        format!("{} from {} each {}, next {}", coming.amount, coming.guardian, coming.every, coming.next_at)
    }));
    lines
}

fn draw_results(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let mut told: Vec<_> = view.results.iter().map(told).collect();
    if told.is_empty() {
        // A piggy bank that is new to the child was told nothing yet but this.
        let shown = view.child.iter().flat_map(|child| child.results.iter());
        told.extend(shown.flat_map(|results| results.iter()).map(result_line));
    }
    if told.is_empty() {
        return;
    }
    let mut lines = vec![Line::styled("Last payments", Style::new().add_modifier(Modifier::UNDERLINED))];
    lines.extend(told.into_iter().map(Line::raw));
    frame.render_widget(Paragraph::new(lines), area);
}

/// One line about what became of a payment.
fn told(result: &PromptResult) -> String {
    let mut line = match (&result.prompt, &result.status) {
        (Some(prompt), _) => {
            format!("{:>12}  {:<16}", prompt.amount.to_string(), plain(prompt.payee.as_str()))
        }
        (None, Some(status)) => format!("{:>12}  {:<16}", status.amount.to_string(), ""),
        (None, None) => String::new(),
    };
    line.push_str("  ");
    line.push_str(&outcome(result));
    line
}

/// In words for a child. An answered one is waiting, not paid, until the cloud says so (correctness.md 16).
pub(crate) fn outcome(result: &PromptResult) -> String {
    let words = match (&result.status, result.answer, result.ended) {
        (Some(status), _, _) if !status.text.as_str().is_empty() => return plain(status.text.as_str()),
        (Some(status), _, _) => in_words(status.state),
        (None, Some(ChildAnswer::Confirm), _) => "You said yes. Waiting for the result.",
        (None, Some(ChildAnswer::Reject), _) => "You said no. Waiting for the result.",
        (None, None, Some(PromptEnd::TooLate)) => "Too late to answer.",
        (None, None, Some(PromptEnd::Withdrawn)) => "Taken back.",
        (None, None, None) => "",
    };
    words.to_owned()
}

/// For a cloud that says no more than a state.
pub(super) fn in_words(state: PaymentState) -> &'static str {
    match state {
        PaymentState::Settled => "Paid.",
        PaymentState::Presenting => "Pay with the code.",
        PaymentState::Rejected => "You said no. Nothing was paid.",
        PaymentState::Expired => "Too late. Nothing was paid.",
        PaymentState::Cancelled => "Taken back. Nothing was paid.",
        PaymentState::Refused => "Refused. Nothing was paid.",
        PaymentState::Voided => "Nothing was paid.",
        PaymentState::Refunded => "You have it back.",
        other => other.as_str(),
    }
}

/// An amount in letters of five rows, with its currency small beside it.
fn large(amount: Money) -> Vec<String> {
    const GLYPHS: [(char, [&str; 5]); 11] = [
        ('0', ["███", "█ █", "█ █", "█ █", "███"]),
        ('1', [" █ ", "██ ", " █ ", " █ ", "███"]),
        ('2', ["███", "  █", "███", "█  ", "███"]),
        ('3', ["███", "  █", "███", "  █", "███"]),
        ('4', ["█ █", "█ █", "███", "  █", "  █"]),
        ('5', ["███", "█  ", "███", "  █", "███"]),
        ('6', ["███", "█  ", "███", "█ █", "███"]),
        ('7', ["███", "  █", "  █", "  █", "  █"]),
        ('8', ["███", "█ █", "███", "█ █", "███"]),
        ('9', ["███", "█ █", "███", "  █", "███"]),
        ('.', [" ", " ", " ", " ", "█"]),
    ];
    let text = amount.to_string();
    let (number, currency) = text.split_once(' ').unwrap_or((&text, ""));
    let mut rows = vec![String::new(); 5];
    for character in number.chars() {
        let Some((_, glyph)) = GLYPHS.iter().find(|(known, _)| *known == character) else { continue };
        for (row, part) in rows.iter_mut().zip(glyph) {
            row.push_str(part);
            row.push(' ');
        }
    }
    if let Some(last) = rows.last_mut() {
        let digits = mem::take(last);
        *last = format!("{digits} {currency}");
    }
    rows
}

#[cfg(test)]
mod tests {
    use edge_agent_device::PromptResult;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use schemas::ids::PaymentId;

    use super::super::tests::shown;
    use super::*;

    fn picture(view: &View, now_boot_ms: u64) -> String {
        picture_of(view, now_boot_ms, 24)
    }

    fn picture_of(view: &View, now_boot_ms: u64, rows: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, rows)).unwrap();
        terminal.draw(|frame| draw(frame, view, now_boot_ms)).unwrap();
        terminal.backend().to_string()
    }

    fn view() -> View {
        let results = vec![PromptResult {
            payment: PaymentId([2; 16]),
            prompt: Some(shown(2, 0).prompt.prompt),
            answer: Some(ChildAnswer::Confirm),
            ended: None,
            status: None,
        }];
        let principal = "home/mias-bank".to_owned();
        let shown = Some(shown(1, 0));
        View { principal, connected: true, knows_time: true, shown, more: 2, results, ..View::default() }
    }

    /// PC-3: who asks, how much, for what, how long still; and PC-5, what became of the last ones.
    #[test]
    fn the_screen_says_everything_that_a_child_needs() {
        let picture = picture(&view(), 18_000);
        for part in [
            "home/mias-bank",
            "connected",
            "dad asks you to pay",
            "███   ███ █ █",
            "EUR",
            "to Canteen  for lunch, sweets",
            "(3.00 EUR was asked for: this is what you have)",
            "“Enjoy [2J {payee}!”",
            "2 more after this one",
            "0:42",
            "Enter or y",
            "You said yes. Waiting for the result.",
        ] {
            assert!(picture.contains(part), "{part} is not in\n{picture}");
        }
        assert!(!picture.contains("NOT connected") && !picture.contains('\u{1b}'));
    }

    /// PC-3: not even by a screen that nobody told.
    #[test]
    fn a_late_prompt_is_not_drawn() {
        assert!(picture(&view(), 60_000).contains("asks you to pay"));
        let late = picture(&view(), 60_001);
        assert!(late.contains("Nothing to answer.") && !late.contains("asks you to pay"), "{late}");
        let lost = picture(&View { connected: false, knows_time: false, shown: None, ..view() }, 0);
        assert!(lost.contains("NOT connected") && lost.contains("Waiting for the cloud's time."), "{lost}");
    }

    /// PC-14
    #[test]
    fn the_screen_says_what_the_child_has_when_nothing_is_asked() {
        use schemas::message::{AllowanceSchedule, ComingAllowance, ComingAllowances, Every, Goal, Goals};
        use schemas::time::Timestamp;

        let schedule = AllowanceSchedule {
            amount: "2.00 EUR".parse().unwrap(),
            every: Every::Week,
            first_at: Timestamp(1_795_000_000_000),
        };
        let (amount, every, next_at) = (schedule.amount, schedule.every, schedule.first_at);
        let coming = ComingAllowance { guardian: "dad".parse().unwrap(), amount, every, next_at };
        let goal = |title: &str, amount: &str| Goal {
            title: schemas::wire::Text::new(title),
            amount: amount.parse().unwrap(),
        };
        let child = ChildView {
            child: "mia".parse().unwrap(),
            available: "12.50 EUR".parse().unwrap(),
            as_of: Timestamp(1_795_000_000_000),
            goals: Goals::new(vec![goal("A \u{1b}[2Jscooter", "50.00 EUR"), goal("A ball", "12.00 EUR")])
                .unwrap(),
            allowances: ComingAllowances::new(vec![coming]).unwrap(),
            wishes: None,
            results: None,
        };
        let picture = picture(&View { shown: None, child: Some(child), ..view() }, 0);
        for part in [
            "mia has 12.50 EUR (as of 2026-",
            "saving for A  [2Jscooter: 25% of 50.00 EUR",
            "saving for A ball: 100% of 12.00 EUR",
            "2.00 EUR from dad each week, next 2026-",
        ] {
            assert!(picture.contains(part), "{part} is not in\n{picture}");
        }
    }

    /// PC-6, PC-9: the code with what it is for, and no longer than it counts; where there is no room, that is said.
    #[test]
    fn a_code_is_drawn_until_its_end_and_gives_way_to_a_question() {
        let text = format!("FQ1:{}", "6BF+70790T9WJWG.FKY*4GO0".repeat(8));
        let code = ShownCode {
            payment: PaymentId([7; 16]),
            mode: schemas::message::PaymentMode::Qr,
            amount: "2.50 EUR".parse().unwrap(),
            payee: schemas::wire::Text::new("Canteen\u{1b}[2J"),
            text: text.parse().unwrap(),
            expires_at: schemas::time::Timestamp(1_795_000_060_000),
            until_boot_ms: 60_000,
        };
        let view = View { shown: None, code: Some(code), ..view() };
        let drawn = picture_of(&view, 18_000, 40);
        assert!(
            drawn.contains("Pay 2.50 EUR to Canteen [2J: hold this before the scanner, 0:42 left"),
            "{drawn}"
        );
        for line in as_lines(&text).unwrap().lines() {
            assert!(drawn.contains(line), "{line} is not in\n{drawn}");
        }
        let small = picture(&view, 18_000);
        assert!(small.contains("too small for the code") && !small.contains("\u{2580}\u{2584}"), "{small}");
        assert!(!picture_of(&view, 60_001, 40).contains("before the scanner"));
        let asked = picture_of(&View { shown: Some(shown(1, 0)), ..view }, 18_000, 40);
        assert!(asked.contains("asks you to pay") && !asked.contains("before the scanner"), "{asked}");
    }

    /// What is asked comes before what was.
    #[test]
    fn a_small_terminal_shows_the_question_whole() {
        let small = picture_of(&view(), 0, 13);
        for part in ["asks you to pay", "2.50 EUR", "to Canteen  for lunch", "1:00", "Enter or y"] {
            assert!(small.contains(part), "{part} is not in\n{small}");
        }
        let idle = picture_of(&View { shown: None, ..view() }, 0, 6);
        assert!(idle.contains("Nothing to answer.") && idle.contains("You said yes"), "{idle}");
    }

    #[test]
    fn keys_have_one_meaning_each() {
        let (yes, no) = (Meaning::Answer(ChildAnswer::Confirm), Meaning::Answer(ChildAnswer::Reject));
        for (code, modifiers, expected) in [
            (KeyCode::Enter, KeyModifiers::NONE, Some(&yes)),
            (KeyCode::Char('y'), KeyModifiers::NONE, Some(&yes)),
            (KeyCode::Esc, KeyModifiers::NONE, Some(&no)),
            (KeyCode::Char('N'), KeyModifiers::SHIFT, Some(&no)),
            (KeyCode::Char('q'), KeyModifiers::NONE, Some(&Meaning::Quit)),
            (KeyCode::Char('c'), KeyModifiers::CONTROL, Some(&Meaning::Quit)),
            (KeyCode::Char('c'), KeyModifiers::NONE, Some(&Meaning::Code)),
            (KeyCode::Char(' '), KeyModifiers::NONE, None),
        ] {
            assert_eq!(meaning(KeyEvent::new(code, modifiers)).as_ref(), expected, "{code:?}");
        }
        let release = KeyEvent::new_with_kind(KeyCode::Enter, KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(meaning(release), None);
    }
}
