//! What the words of a wish say, in English and Chinese (PC-12): what it is about, whether it is something to buy, and how
//! much that costs. A pure function of the text, of `words/lists.txt` and of `words/chinese.txt`.
//!
//! Chinese is cut into words by jieba, with a dictionary of our own: jieba's is twenty times as large (33 MB in memory,
//! 160 ms to load, and a C library to unpack it), and this one cuts what children say as well, in 2 MB and 5 ms.
//!
//! - Keywords are nouns, the first [`schemas::limits::KEYWORDS`]; in English all words but those of `[stop]`.
//! - A purchase is a word of `[purchase]`; or one of `[wanting]` before a thing; neither behind a word of `[not]`, which
//!   counts for the [`DENIED_WORDS`] words, or [`DENIED_CHARACTERS`] characters, after it in the same sentence.
//! - An amount is a number in digits with a sign or word of the tenant's currency. It counts if there is exactly one, with no
//!   decimals beyond the currency's, no other digits that touch it, and no range.

use std::collections::BTreeSet;

use jieba_rs::Jieba;
use schemas::message::Keywords;
use schemas::money::{Currency, Money};
use schemas::wire::Text;

/// How many English words after a "not" are denied.
const DENIED_WORDS: usize = 3;
/// How many Chinese characters after a "not" are denied.
const DENIED_CHARACTERS: usize = 4;
/// Longest keyword, in bytes.
const KEYWORD_BYTES: usize = 48;

/// Characters that no thing is called by.
const FUNCTION: [char; 20] = [
    '我', '你', '他', '她', '它', '您', '要', '想', '的', '了', '吗', '呢', '吧', '是', '在', '和', '给',
    '也', '都', '很',
];

const LISTS: &str = include_str!("words/lists.txt");
const CHINESE: &str = include_str!("words/chinese.txt");

/// What a text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meaning {
    pub(crate) keywords: Keywords,
    pub(crate) is_purchase: bool,
    pub(crate) amount: Option<Money>,
}

/// The lists and the dictionary, ready to be looked up.
#[derive(Debug)]
pub(crate) struct Words {
    jieba: Jieba,
    purchase: Vec<Entry>,
    wanting: Vec<Entry>,
    not_a_thing: Vec<Entry>,
    not: Vec<Entry>,
    passed_over: Vec<&'static str>,
    stop: BTreeSet<&'static str>,
    currencies: Vec<(&'static str, &'static str)>,
}

/// One entry of a list.
#[derive(Debug)]
enum Entry {
    /// A sequence of words.
    English(Vec<&'static str>),
    /// To be found anywhere.
    Chinese(&'static str),
}

/// A word of a text that is not Chinese.
struct Word {
    text: String,
    begin: usize,
}

impl Words {
    pub(crate) fn new() -> Self {
        let list = |name: &str| section(name).collect::<Vec<_>>();
        let entries = |name: &str| list(name).into_iter().map(Entry::new).collect();
        let dictionary = CHINESE.split_once("\n\n").map_or("", |(_, words)| words);
        Self {
            // Only a broken dictionary is refused, and a test reads this one.
            jieba: Jieba::with_dict(&mut dictionary.as_bytes()).unwrap_or_else(|_| Jieba::empty()),
            purchase: entries("purchase"),
            wanting: entries("wanting"),
            not_a_thing: entries("not-a-thing"),
            not: entries("not"),
            passed_over: list("passed-over"),
            stop: section("stop").collect(),
            currencies: section("currency").filter_map(|line| line.split_once(' ')).collect(),
        }
    }

    /// Reads one text. Without a currency there are no amounts.
    pub(crate) fn read(&self, text: &str, currency: Option<Currency>) -> Meaning {
        let text = text.to_lowercase().replace('\u{2019}', "'");
        Meaning {
            keywords: self.keywords(&text),
            is_purchase: sentences(&text).any(|sentence| self.is_purchase(sentence)),
            amount: currency.and_then(|currency| self.amount(&text, currency)),
        }
    }

    fn keywords(&self, text: &str) -> Keywords {
        let english = words(text).into_iter().filter(|word| is_english_keyword(&word.text));
        let mut found: Vec<(usize, String)> = english.map(|word| (word.begin, word.text)).collect();
        for tag in self.jieba.tag(text, true) {
            if is_chinese_keyword(tag.word, tag.tag) {
                found.push((tag.byte_start, tag.word.to_owned()));
            }
        }
        found.sort();
        let mut keywords: Vec<String> = Vec::new();
        for (_, word) in found {
            let fits = word.len() <= KEYWORD_BYTES && !self.stop.contains(word.as_str());
            let says_nothing = self.passed_over.contains(&word.as_str()) || self.is_about_buying(&word);
            if fits && !says_nothing && !keywords.contains(&word) {
                keywords.push(word);
            }
        }
        keywords.truncate(schemas::limits::KEYWORDS);
        Keywords::new(keywords.into_iter().map(Text::new).collect()).unwrap_or_default()
    }

    /// Single words that make a purchase, or mean a currency, are not what it is about.
    fn is_about_buying(&self, word: &str) -> bool {
        let is = |entry: &Entry| match entry {
            Entry::English(words) => words[..] == [word],
            Entry::Chinese(text) => *text == word,
        };
        self.purchase.iter().chain(&self.wanting).any(is)
            || self.currencies.iter().any(|(_, name)| *name == word)
    }

    fn is_purchase(&self, sentence: &str) -> bool {
        let passed_over = |text: String, phrase: &&str| text.replace(*phrase, "  ");
        let sentence = self.passed_over.iter().fold(sentence.to_owned(), passed_over);
        let words: Vec<String> = words(&sentence).into_iter().map(|word| word.text).collect();
        self.is_english_purchase(&words) || self.is_chinese_purchase(&sentence)
    }

    fn is_english_purchase(&self, words: &[String]) -> bool {
        let matches =
            |list: &[Entry], at: usize| list.iter().filter_map(move |entry| entry.words_at(words, at)).max();
        let denied = |at: usize| {
            let from = at.saturating_sub(DENIED_WORDS);
            (from..at).any(|before| matches(&self.not, before).is_some())
        };
        (0..words.len()).filter(|at| !denied(*at)).any(|at| {
            let wanted = matches(&self.wanting, at).map(|length| at + length);
            matches(&self.purchase, at).is_some()
                || wanted.is_some_and(|next| next < words.len() && matches(&self.not_a_thing, next).is_none())
        })
    }

    fn is_chinese_purchase(&self, sentence: &str) -> bool {
        let denied = |at: usize| {
            let before: String = sentence[..at].chars().rev().take(DENIED_CHARACTERS).collect();
            chinese(&self.not).any(|not| before.contains(not))
        };
        let hits = |entries| {
            chinese(entries).flat_map(|phrase| sentence.match_indices(phrase)).filter(|(at, _)| !denied(*at))
        };
        let is_thing = |(at, phrase): (usize, &str)| {
            let rest = sentence[at + phrase.len()..].trim_start();
            !rest.is_empty() && !chinese(&self.not_a_thing).any(|other| rest.starts_with(other))
        };
        hits(&self.purchase).next().is_some() || hits(&self.wanting).any(is_thing)
    }

    /// The one amount that is in the text.
    fn amount(&self, text: &str, currency: Currency) -> Option<Money> {
        let numbers = numbers(text);
        let mut amounts = numbers.iter().filter(|number| self.has_currency(text, number, currency));
        let only = amounts.next().filter(|_| amounts.next().is_none())?;
        if is_in_a_range(text, only) {
            return None;
        }
        let digits = text[only.begin..only.end].replace(',', ".");
        let whole = digits.split('.').count();
        let decimals = digits.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        if whole > 2 || decimals > currency.exponent() as usize || (decimals == 0 && whole == 2) {
            return None;
        }
        let amount: Money = format!("{digits} {currency}").parse().ok()?;
        (amount.minor > 0).then_some(amount)
    }

    /// A sign or word of this currency stands before it, or behind it.
    fn has_currency(&self, text: &str, number: &Number, currency: Currency) -> bool {
        let code = currency.code().to_lowercase();
        let known = self.currencies.iter().filter(|(of, _)| *of == currency.code()).map(|(_, name)| *name);
        let before = text[..number.begin].trim_end_matches(' ');
        let after = text[number.end..].trim_start_matches(' ');
        let mut names = known.chain([code.as_str()]);
        names.any(|name| {
            let is_word = name.chars().all(|c| c.is_ascii_alphabetic());
            let ends_there = |rest: &str| !is_word || !rest.starts_with(|c: char| c.is_alphanumeric());
            let begins_there = |rest: &str| !is_word || !rest.ends_with(|c: char| c.is_alphanumeric());
            after.strip_prefix(name).is_some_and(|rest| ends_there(rest) && !starts_with_digit(rest))
                || !name.chars().any(is_chinese) && before.strip_suffix(name).is_some_and(begins_there)
        })
    }
}

impl Entry {
    fn new(text: &'static str) -> Self {
        if text.chars().any(is_chinese) {
            Self::Chinese(text)
        } else {
            Self::English(text.split(' ').collect())
        }
    }

    /// How many words it is, if they stand there.
    fn words_at(&self, words: &[String], at: usize) -> Option<usize> {
        let Self::English(entry) = self else { return None };
        let there = words.get(at..at + entry.len())?;
        there.iter().zip(entry).all(|(word, wanted)| word == wanted).then_some(entry.len())
    }
}

fn chinese(entries: &[Entry]) -> impl Iterator<Item = &'static str> {
    entries.iter().filter_map(|entry| match entry {
        Entry::Chinese(text) => Some(*text),
        Entry::English(_) => None,
    })
}

/// The entries of one section.
fn section(name: &str) -> impl Iterator<Item = &'static str> {
    let is_head =
        move |line: &&str| line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) != Some(name);
    let lines: Vec<_> =
        LISTS.lines().skip_while(is_head).skip(1).take_while(|line| !line.starts_with('[')).collect();
    lines.into_iter().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.split(['.', '!', '?', ';', ',', '\n', '。', '！', '？', '；', '，', '、'])
}

/// Letters, digits and apostrophes that stand together.
fn words(text: &str) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut open = false;
    for (begin, c) in text.char_indices() {
        let is_inside = (c.is_alphanumeric() || c == '\'') && !is_chinese(c);
        match (is_inside, open) {
            (true, true) => words.last_mut().into_iter().for_each(|word| word.text.push(c)),
            (true, false) => words.push(Word { text: c.into(), begin }),
            (false, _) => {}
        }
        open = is_inside;
    }
    // "I'd like" is a want too.
    let mut cut = Vec::new();
    for word in words {
        match word.text.split_once("'d") {
            Some((before, "")) if !before.is_empty() => {
                let apart = word.begin + before.len();
                cut.push(Word { text: before.to_owned(), begin: word.begin });
                cut.push(Word { text: "'d".to_owned(), begin: apart });
            }
            _ => cut.push(word),
        }
    }
    cut
}

fn is_english_keyword(word: &str) -> bool {
    let letters = word.chars().filter(|c| c.is_alphabetic()).count();
    letters >= 2 && !word.starts_with('\'') && !word.starts_with(|c: char| c.is_ascii_digit())
}

/// Nouns, and longer words that the dictionary does not have; those are guessed, and may be a pronoun with a verb.
fn is_chinese_keyword(word: &str, tag: &str) -> bool {
    let count = word.chars().count();
    let is_noun = tag.starts_with('n') && tag != "nrfg" || matches!(tag, "vn" | "an" | "l");
    word.chars().all(is_chinese) && (is_noun || tag == "x" && count >= 2 && !word.contains(FUNCTION))
}

/// The unified ideographs of Unicode.
fn is_chinese(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}

/// Digits with `.` and `,` between them.
struct Number {
    begin: usize,
    end: usize,
}

fn numbers(text: &str) -> Vec<Number> {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut numbers: Vec<Number> = Vec::new();
    for at in (0..bytes.len()).filter(|at| is_digit(*at)) {
        match numbers.last_mut() {
            Some(last) if last.end == at => last.end = at + 1,
            Some(last) if last.end + 1 == at && matches!(bytes[last.end], b'.' | b',') => last.end = at + 1,
            _ => numbers.push(Number { begin: at, end: at + 1 }),
        }
    }
    numbers
}

/// "10-12 euros", "from 10 to 12 euros", "10到12元": nobody knows which.
fn is_in_a_range(text: &str, number: &Number) -> bool {
    const LINKS: [&str; 10] = ["-", "\u{2013}", "~", "\u{ff5e}", "/", " to", " or", "到", "至", "或"];
    let before = text[..number.begin].trim_end_matches([' ', '€', '$', '£', '¥', '￥']);
    let before = LINKS.iter().find_map(|link| before.strip_suffix(link));
    let after = text[number.end..].trim_start();
    let after = LINKS.iter().find_map(|link| after.strip_prefix(link.trim_start()));
    // A minus sign without a number before it is no range, and no amount either.
    before.is_some()
        && !before.is_some_and(|rest| rest.ends_with(char::is_alphabetic) && !rest.ends_with(is_chinese))
        || after
            .is_some_and(|rest| starts_with_digit(rest.trim_start_matches([' ', '€', '$', '£', '¥', '￥'])))
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, currency: &str) -> (bool, Vec<String>, Option<String>) {
        let meaning = Words::new().read(text, currency.parse().ok());
        let keywords = meaning.keywords.iter().map(ToString::to_string).collect();
        (meaning.is_purchase, keywords, meaning.amount.map(|amount| amount.to_string()))
    }

    #[test]
    fn the_dictionary_and_the_lists_are_read() {
        let words = Words::new();
        assert!(words.jieba.has_word("自行车") && words.jieba.has_word("一") && !words.jieba.has_word("#"));
        let lists = [&words.purchase, &words.wanting, &words.not_a_thing, &words.not];
        assert!(lists.iter().all(|list| chinese(list).next().is_some()), "in both languages");
        assert!(!words.passed_over.is_empty() && words.stop.len() > 100 && words.currencies.len() > 20);
        for (currency, _) in &words.currencies {
            assert!(currency.parse::<Currency>().is_ok(), "{currency}");
        }
    }

    /// PC-12: whether it is something to buy.
    #[test]
    fn a_purchase_is_told_from_a_message_in_both_languages() {
        for (text, is_purchase) in [
            ("I want a scooter", true),
            ("Dad, could I have a new ball?", true),
            ("Please BUY me a book about whales", true),
            ("I would like a telescope for my birthday", true),
            ("I\u{2019}d like a puppy", true),
            ("I am saving for a bike", true),
            ("No! Buy me a ball", true),
            ("I want to go home", false),
            ("I want you to come home early", false),
            ("I want mummy", false),
            ("I don't want a scooter any more", false),
            ("Please do not buy me sweets", false),
            ("Thank you for the book", false),
            ("The busy buyer wanted nothing", false),
            ("Good night!", false),
            ("", false),
            ("爸爸给我买一辆自行车好不好", true),
            ("我想要一个乐高恐龙积木", true),
            ("妈妈我想买滑板车", true),
            ("生日礼物可以是望远镜吗", true),
            ("能不能给我买个足球", true),
            ("我要一本漫画书", true),
            ("那个机器人多少钱？", true),
            ("不要给我买玩具了", false),
            ("我不想要裙子", false),
            ("别买了，家里有", false),
            ("我想要你早点回家", false),
            ("我要去动物园", false),
            ("谢谢爸爸今天带我去动物园", false),
            ("我想你了", false),
        ] {
            assert_eq!(read(text, "EUR").0, is_purchase, "{text}");
        }
    }

    /// PC-12: what it is about.
    #[test]
    fn keywords_are_what_a_text_is_about() {
        for (text, keywords) in [
            ("Can I have a red scooter, please? The scooter of Leo is red", &["red", "scooter", "leo"][..]),
            ("I want to buy 2 books about whales for 12 euros", &["books", "whales"]),
            ("Good night dad", &["night"]),
            ("爸爸给我买一辆自行车好不好", &["自行车"]),
            ("我想要一个乐高恐龙积木，要199元", &["乐高", "恐龙", "积木"]),
            ("妈妈我想买滑板车，大概300块钱", &["滑板车"]),
            ("想要一本关于鲸鱼的书", &["鲸鱼", "书"]),
            ("我要一个 Switch 游戏机", &["switch", "游戏机"]),
            ("", &[]),
        ] {
            assert_eq!(read(text, "CNY").1, keywords, "{text}");
        }
        let many =
            (0..40).map(|n| format!("{}wort", char::from(b'a' + n % 26))).collect::<Vec<_>>().join(" ");
        assert_eq!(read(&many, "EUR").1.len(), schemas::limits::KEYWORDS);
    }

    /// PC-12: an amount is only what can mean nothing else.
    #[test]
    fn an_amount_counts_if_it_is_the_only_one() {
        for (text, currency, amount) in [
            ("a scooter for 50 euros", "EUR", Some("50.00 EUR")),
            ("it costs €12.50", "EUR", Some("12.50 EUR")),
            ("12,5 EUR", "EUR", Some("12.50 EUR")),
            ("2 books for 12€ please", "EUR", Some("12.00 EUR")),
            ("要199元", "CNY", Some("199.00 CNY")),
            ("大概300块钱", "CNY", Some("300.00 CNY")),
            ("¥99.9的书", "CNY", Some("99.90 CNY")),
            ("¥900", "JPY", Some("900 JPY")),
            ("50 euros", "USD", None),
            ("50欧元", "EUR", Some("50.00 EUR")),
            ("50美元", "CNY", None),
            ("50", "EUR", None),
            ("10 euros or 12 euros", "EUR", None),
            ("10-12 euros", "EUR", None),
            ("10 to 12 euros", "EUR", None),
            ("10到12元", "CNY", None),
            ("between 10€ and 12€", "EUR", None),
            ("1,200 euros", "EUR", None),
            ("1.000.000 euros", "EUR", None),
            ("12.345 EUR", "EUR", None),
            ("12.5 yen", "JPY", None),
            ("12块5", "CNY", None),
            ("0 euros", "EUR", None),
            ("99999999999999999999 euros", "EUR", None),
            ("5 europeans", "EUR", None),
            ("", "EUR", None),
        ] {
            assert_eq!(read(text, currency).2.as_deref(), amount, "{text} in {currency}");
        }
    }

    /// Whatever somebody writes, it is read without a panic, and the same each time.
    #[test]
    fn any_text_is_read() {
        let words = Words::new();
        let mut text = String::new();
        for number in 0..2_000_u32 {
            let code = number.wrapping_mul(2_654_435_761) % 0x3_0000;
            text.extend(char::from_u32(code));
            if number % 40 == 39 {
                let currency = "EUR".parse().ok();
                assert_eq!(words.read(&text, currency), words.read(&text, currency));
                text.clear();
            }
        }
    }
}
