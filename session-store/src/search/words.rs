//! From a text to its words, the same for what is indexed, what is asked and what is shown as found.
//!
//! A word is a run of letters and digits. It is folded: lower case, without the accents of Latin, Greek and Cyrillic letters, `ß` as `ss`.
//! A character of a script that puts no spaces between words (Chinese, Japanese, Korean, Thai and some more), and a pictograph, is a word by
//! itself, so that any part of such a text is found as a phrase. All else only separates. What is found is decided here alone; SQLite gets words that its
//! simplest tokenizer passes on as they are.

use std::ops::Range;
use unicode_normalization::UnicodeNormalization;

/// The most bytes of a folded word that count: what is longer (a hash, an image as text) is found by its start.
const WORD_BYTES_MAX: usize = 64;

/// Goes through the words of a text.
pub(super) struct Words<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Appends the next word to `out`, folded; where it is in the text.
    pub(super) fn next_into(&mut self, out: &mut String) -> Option<Range<usize>> {
        let bytes = self.text.as_bytes();
        loop {
            while bytes.get(self.at).is_some_and(|byte| byte.is_ascii() && !byte.is_ascii_alphanumeric()) {
                self.at += 1;
            }
            let start = self.at;
            if start >= bytes.len() {
                return None;
            }
            let length = out.len();
            let is_ascii = self.pass(start);
            let word = &self.text[start..self.at];
            if word.is_empty() {
                self.at += self.text[start..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            if is_ascii {
                out.extend(word.bytes().take(WORD_BYTES_MAX).map(|byte| char::from(byte.to_ascii_lowercase())));
            } else {
                fold(word, out);
                if out.len() == length {
                    continue;
                }
            }
            return Some(start..self.at);
        }
    }

    /// Moves to the end of the word that begins at `start`, if one does; says whether it is all ASCII.
    fn pass(&mut self, start: usize) -> bool {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_alphanumeric) {
            self.at += 1;
        }
        if bytes.get(self.at).is_none_or(u8::is_ascii) {
            return true;
        }
        let ascii_end = self.at;
        for char in self.text[ascii_end..].chars() {
            if is_word_by_itself(char) {
                if self.at == start {
                    self.at += char.len_utf8();
                }
                break;
            }
            if !(char.is_alphanumeric() || is_accent(char) && self.at > start) {
                break;
            }
            self.at += char.len_utf8();
        }
        self.at == ascii_end
    }
}

/// The words of `text`, each with a space behind it.
pub(super) fn append_words(text: &str, out: &mut String) {
    let mut words = Words::of(text);
    while words.next_into(out).is_some() {
        out.push(' ');
    }
}

/// The words of `text`.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words = Words::of(text);
    std::iter::from_fn(|| {
        let mut word = String::new();
        words.next_into(&mut word).map(|_| word)
    })
    .collect()
}

/// Appends `word` without accents and in lower case, as far as it counts.
fn fold(word: &str, out: &mut String) {
    let start = out.len();
    let lower = word.nfd().filter(|char| !is_accent(*char)).flat_map(char::to_lowercase).filter(|char| !is_accent(*char));
    for char in lower.nfc() {
        let (first, second) = match char {
            'ß' => ('s', Some('s')),
            'ς' => ('σ', None),
            char => (char, None),
        };
        for char in std::iter::once(first).chain(second) {
            if out.len() - start + char.len_utf8() > WORD_BYTES_MAX {
                return;
            }
            out.push(char);
        }
    }
}

/// The combining accents; marks of other scripts change what a word is.
fn is_accent(char: char) -> bool {
    ('\u{300}'..='\u{36f}').contains(&char)
}

fn is_word_by_itself(char: char) -> bool {
    matches!(u32::from(char),
        // Thai and Lao; Myanmar; Khmer.
        0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF
        // Arrows, technical signs, dingbats and other symbols.
        | 0x2190..=0x2BFF
        // Radicals, kana, bopomofo, letters in circles, Han.
        | 0x2E80..=0x2FDF | 0x3005..=0x3007 | 0x3040..=0x9FFF
        // Yi; Hangul; compatibility Han; half-width kana and Hangul.
        | 0xA000..=0xA4CF | 0xAC00..=0xD7A3 | 0xF900..=0xFAFF | 0xFF66..=0xFFDC
        // Pictographs; Han of the further planes.
        | 0x1F000..=0x1FAFF | 0x20000..=0x323AF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_folded_and_all_else_separates() {
        assert_eq!(words("Fix src/main.rs: don't_panic(42)!"), ["fix", "src", "main", "rs", "don", "t", "panic", "42"]);
        assert_eq!(
            words("Größe GRÖẞE groesse ΟΔΟΣ e\u{301}té İstanbul"),
            ["grosse", "grosse", "groesse", "οδοσ", "ete", "istanbul"]
        );
        assert_eq!(words("  \u{e000}---\u{202e} "), Vec::<String>::new());
    }

    #[test]
    fn scripts_without_spaces_are_found_by_every_part() {
        assert_eq!(words("abc日本語def, が🌊→x"), ["abc", "日", "本", "語", "def", "が", "🌊", "→", "x"]);
        assert_eq!(words("한국어"), ["한", "국", "어"]);
    }

    #[test]
    fn a_long_word_counts_by_its_start() {
        let long = "é".repeat(100);
        assert_eq!(words(&long), ["e".repeat(64)]);
        assert_eq!(words(&"жx".repeat(50))[0].len(), 63);
    }

    proptest! {
        #[test]
        fn words_stay_words_when_they_are_read_again(text in "\\PC*") {
            let once = words(&text);
            prop_assert!(once.iter().all(|word| !word.is_empty() && word.len() <= WORD_BYTES_MAX));
            // SQLite's `ascii` tokenizer separates at every ASCII character but letters and digits.
            prop_assert!(once.iter().flat_map(|word| word.chars()).all(|char| !char.is_ascii() || char.is_ascii_lowercase() || char.is_ascii_digit()));
            let mut line = String::new();
            append_words(&text, &mut line);
            prop_assert_eq!(line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>(), once);
        }

        #[test]
        fn each_word_says_where_it_is(text in "[a-zé日🌊 .]*") {
            let mut found = Words::of(&text);
            let (mut word, mut end) = (String::new(), 0);
            while let Some(range) = found.next_into(&mut word) {
                prop_assert!(range.start >= end && range.end > range.start);
                prop_assert_eq!(words(&text[range.clone()]), vec![word.clone()]);
                end = range.end;
                word.clear();
            }
        }
    }
}
