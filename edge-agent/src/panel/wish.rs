//! Wishes and results in words that a child understands (PC-12, PC-5).

use edge_agent_device::{ListedWish, WishStanding};
use schemas::message::{ShownResult, WishState};

use super::plain;
use super::screen::in_words;

/// Wishes on the screen: the newest, and those that wait.
const WISHES: usize = 4;
/// Of one wish on the screen, in characters.
const TEXT_CHARS: usize = 40;

/// Where a wish stands.
pub(crate) fn wish_standing(standing: &WishStanding) -> String {
    match standing {
        WishStanding::Waiting => "waits for the connection".to_owned(),
        WishStanding::Sent => "sent".to_owned(),
        WishStanding::Refused { code } => match refusal(code.as_str()) {
            Some(words) => format!("not taken: {words} ({code})"),
            None => format!("not taken ({code})"),
        },
        WishStanding::Told { state, reason } => {
            let words = in_words_of(*state);
            let reason =
                reason.as_ref().map(|reason| format!(": \u{201c}{}\u{201d}", plain(reason.as_str())));
            format!("{words}{}", reason.unwrap_or_default())
        }
    }
}

/// The first of them, for the screen.
pub(super) fn wish_lines(wishes: &[ListedWish]) -> Vec<String> {
    let line = |wish: &ListedWish| {
        let words: String = plain(wish.text.as_str()).chars().take(TEXT_CHARS).collect();
        format!("wish to {}: {words} \u{2013} {}", wish.to, wish_standing(&wish.standing))
    };
    wishes.iter().take(WISHES).map(line).collect()
}

/// What became of a payment, as the cloud told it with the child's view.
pub(super) fn result_line(result: &ShownResult) -> String {
    let what = plain(result.what.as_str());
    format!("{:>12}  {what:<16}  {}", result.amount.to_string(), in_words(result.state))
}

fn in_words_of(state: WishState) -> &'static str {
    match state {
        WishState::Open => "waits for an answer",
        WishState::Ordered => "ordered: look at the question",
        WishState::Granted => "granted",
        WishState::Declined => "no",
        WishState::Withdrawn => "taken back",
        WishState::Ended => "over: not your guardian any more",
        WishState::Delivered => "told",
    }
}

fn refusal(code: &str) -> Option<&'static str> {
    Some(match code {
        "guardian_unknown" => "this is not your guardian; choose another one",
        "too_many_wishes" => "your wish list is full; take a wish back, or wait for an answer",
        "too_many_wishes_today" => "enough wishes for today; try again tomorrow",
        "not_a_piggy_bank" => "this piggy bank is nobody's; ask a grown-up",
        "other_child" => "it was said while this piggy bank was another child's",
        "text_empty" => "it has no words",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use schemas::ids::{Code, WishId};
    use schemas::wire::Text;

    use super::*;

    /// PC-12: the child reads how its wish stands, and a grown-up's reason; other people's words move no cursor.
    #[test]
    fn a_child_reads_how_its_wish_stands() {
        let declined =
            |reason: &str| WishStanding::Told { state: WishState::Declined, reason: Some(Text::new(reason)) };
        let refused = |code: &'static str| WishStanding::Refused { code: Code::known(code) };
        for (standing, words) in [
            (WishStanding::Waiting, "waits for the connection"),
            (declined("You \u{1b}[2Jhave one"), "no: \u{201c}You  [2Jhave one\u{201d}"),
            (
                refused("guardian_unknown"),
                "not taken: this is not your guardian; choose another one (guardian_unknown)",
            ),
            (refused("puback_83"), "not taken (puback_83)"),
        ] {
            assert_eq!(wish_standing(&standing), words);
        }
        let wish = |number: u8| ListedWish {
            wish: WishId([number; 16]),
            to: "dad".parse().unwrap(),
            text: Text::new("x".repeat(100)),
            standing: WishStanding::Sent,
        };
        let lines = wish_lines(&(0..9).map(wish).collect::<Vec<_>>());
        assert_eq!(
            (lines.len(), lines[0].chars().count()),
            (WISHES, "wish to dad:  \u{2013} sent".chars().count() + TEXT_CHARS)
        );
    }
}
