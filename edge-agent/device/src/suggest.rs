//! Help with unknown configuration keys.

/// serde says `unknown field `a`, expected one of `b`, `c``; this adds the nearest of them.
/// Any other message comes back as it is.
pub fn explain_unknown_key(message: &str) -> String {
    let Some(at) = message.find("unknown field `").or_else(|| message.find("unknown variant `")) else {
        return message.to_owned();
    };
    let mut quoted = message[at..].split('`').skip(1).step_by(2);
    let Some(unknown) = quoted.next() else { return message.to_owned() };
    let nearest = quoted
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len().max(unknown.len()) / 2);
    match nearest {
        Some((_, known)) => format!("{}: did you mean `{known}`?", message.trim_end()),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_known_key_is_suggested_and_nothing_is_made_up() {
        let near = explain_unknown_key("unknown field `quantty_max`, expected one of `id`, `quantity_max`");
        assert!(near.ends_with("did you mean `quantity_max`?"), "{near}");
        let far = "unknown field `zzzzzzzz`, expected `id` or `price`";
        assert_eq!(explain_unknown_key(far), far);
        assert_eq!(explain_unknown_key("invalid type"), "invalid type");
    }
}
