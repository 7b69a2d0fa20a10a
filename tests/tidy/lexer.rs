//! Just enough of Rust's lexical grammar to tell code from comments and strings.
//!
//! The masked text has the same lines and columns as the original, so that what is found in it can
//! be reported by line and looked up in the original.

/// The code of a source text: comments and the contents of strings and characters are spaces.
pub(crate) fn code_only(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    let mut previous = ' ';
    while let Some(character) = rest.chars().next() {
        let length = token_length(rest, previous).filter(|length| *length > 0);
        let (token, tail) = rest.split_at(length.unwrap_or(character.len_utf8()));
        if length.is_some() {
            masked.extend(token.chars().map(|inside| if inside == '\n' { '\n' } else { ' ' }));
        } else {
            masked.push(character);
        }
        previous = character;
        rest = tail;
    }
    masked
}

/// Length in bytes of the comment, string or character at the start of `rest`, if there is one.
fn token_length(rest: &str, previous: char) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment_length(rest));
    }
    let begins_word = !(previous.is_alphanumeric() || previous == '_');
    let unprefixed = if begins_word { rest.trim_start_matches(['b', 'c']) } else { rest };
    let prefix = rest.len() - unprefixed.len();
    if unprefixed.starts_with('"') && prefix <= 1 {
        return Some(prefix + string_length(unprefixed));
    }
    if begins_word && unprefixed.starts_with('r') && prefix <= 1 {
        let hashes = unprefixed[1..].len() - unprefixed[1..].trim_start_matches('#').len();
        if unprefixed[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = &unprefixed[2 + hashes..];
            let length = body.find(&end).map_or(body.len(), |at| at + end.len());
            return Some(prefix + 2 + hashes + length);
        }
    }
    (rest.starts_with('\'')).then(|| character_length(rest)).flatten()
}

fn block_comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while let Some(tail) = rest.get(at..).filter(|tail| !tail.is_empty()) {
        if tail.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += tail.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character literal, as against a lifetime.
fn character_length(rest: &str) -> Option<usize> {
    let mut characters = rest.char_indices().skip(1);
    let (_, first) = characters.next()?;
    if first == '\\' {
        // The character behind the backslash may be a quote itself.
        characters.next()?;
        return characters.find(|(_, inside)| *inside == '\'').map(|(at, _)| at + 1);
    }
    characters.next().filter(|(_, end)| *end == '\'').map(|(at, _)| at + 1)
}

/// The code without the modules and functions that only tests compile.
pub(crate) fn shipped_code(text: &str) -> String {
    let mut code = code_only(text);
    while let Some(start) = code.find("#[cfg(test)]") {
        let tail = &code[start..];
        // `#[cfg(test)] mod tests;` ends at its semicolon, an inline item at its closing brace.
        let end = match (tail.find(';'), tail.find('{')) {
            (Some(semicolon), Some(brace)) if semicolon < brace => semicolon + 1,
            (_, Some(brace)) => brace + block_length(&tail[brace..]),
            (Some(semicolon), None) => semicolon + 1,
            (None, None) => tail.len(),
        };
        let blank: String =
            tail[..end].chars().map(|inside| if inside == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(start..start + end, &blank);
    }
    code
}

/// Length of the bracketed text at the start of `code`, brackets included.
pub(crate) fn block_length(code: &str) -> usize {
    let mut depth = 0_i32;
    for (at, character) in code.char_indices() {
        match character {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + character.len_utf8();
        }
    }
    code.len()
}

/// Lines, counted from 1, on which `word` stands in `code` and is not part of a longer word.
pub(crate) fn lines_with(code: &str, word: &str) -> Vec<usize> {
    places_of(code, word).map(|at| line_of(code, at)).collect()
}

/// Byte offsets at which `word` stands in `code` and is not part of a longer word.
pub(crate) fn places_of<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part_of_word = |character: char| character.is_alphanumeric() || character == '_';
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let starts = !word.starts_with(part_of_word) || !before.is_some_and(part_of_word);
        let ends = !word.ends_with(part_of_word) || !after.is_some_and(part_of_word);
        starts && ends
    })
}

/// The line, counted from 1, of a byte offset.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[test]
fn comments_strings_and_characters_are_masked() {
    let text = "a // b\nc /* d /* e */ f */ g \"h \\\" i\" 'j' '\\'' &'k l r#\"m \" n\"# b\"o\"";
    let code = code_only(text);
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "c", "g", "&'k", "l"]);
    assert_eq!(code.lines().count(), text.lines().count());
}

#[test]
fn test_modules_are_no_shipped_code() {
    let text =
        "fn a() {}\n#[cfg(test)]\nmod tests { fn b() {} }\nfn c() {}\n#[cfg(test)]\nmod d;\n";
    let code = shipped_code(text);
    assert!(code.contains("fn a") && code.contains("fn c"));
    assert!(!code.contains("fn b") && !code.contains("mod d"));
}

#[test]
fn words_are_whole_words() {
    assert_eq!(lines_with("unsafe_code\nunsafe {\n", "unsafe"), [2]);
    assert_eq!(lines_with("strand::x\nrand::y", "rand::"), [2]);
}
