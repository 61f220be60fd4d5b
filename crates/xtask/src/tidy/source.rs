//! Rust source, as far as the rules need to read it.
//!
//! [`Source`] separates code from comments and literals, so that a brace in a string counts for
//! nothing; line numbers stay. It knows strings of every kind, characters, lifetimes and nested
//! comments, and leaves the rest of the grammar alone.

/// A Rust file with its code and its comments apart.
pub(super) struct Source {
    /// The code; everything else is blank.
    pub(super) code: String,
    /// The comments; everything else is blank.
    pub(super) comments: String,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// Line of `fn`, counted from 1.
    pub(super) line: usize,
    /// Lines from `fn` to the closing brace, both included.
    pub(super) length: usize,
}

/// What a character belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

impl Source {
    /// Separates the parts of `text`.
    pub(super) fn new(text: &str) -> Source {
        let mut scanner = Scanner { chars: text.chars().collect(), at: 0, kinds: Vec::new() };
        while scanner.step() {}
        let only = |kind: Kind| -> String {
            let parts = scanner.chars.iter().zip(&scanner.kinds);
            parts.map(|(c, k)| if *c == '\n' || *k == kind { *c } else { ' ' }).collect()
        };
        Source { code: only(Kind::Code), comments: only(Kind::Comment) }
    }

    /// Returns how many lines stand before the module with the tests; all if there is none.
    pub(super) fn lines_before_tests(&self) -> usize {
        let mut rest = self.code.as_str();
        while let Some(at) = rest.find("#[cfg(test)]") {
            let after = skip_attributes(rest.get(at..).unwrap_or_default());
            let (head, _) = after.split_once(['{', ';']).unwrap_or((after, ""));
            let body = after.get(head.len()..).is_some_and(|it| it.starts_with('{'));
            if body && words(head).next() == Some("mod") {
                return self.code.len_lines(self.code.len() - rest.len() + at);
            }
            rest = rest.get(at + 1..).unwrap_or_default();
        }
        self.code.lines().count()
    }

    /// Returns every function that has a body, those inside of others too.
    pub(super) fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        for (at, _) in self.code.match_indices("fn ") {
            let before = self.code.get(..at).unwrap_or_default();
            let after = self.code.get(at + 3..).unwrap_or_default();
            let Some(name) = after.trim_start().split(|c| !is_word(c)).next() else { continue };
            if name.is_empty() || before.ends_with(is_word) {
                continue;
            }
            if let Some(end) = body_end(after) {
                let line = self.code.len_lines(at) + 1;
                let length = self.code.len_lines(at + 3 + end) + 1 - (line - 1);
                functions.push(Function { name: name.to_owned(), line, length });
            }
        }
        functions
    }

    /// Returns the lines, counted from 1, on which `name!` is called.
    pub(super) fn macro_calls(&self, name: &str) -> Vec<usize> {
        self.lines_with(name, |after| after.trim_start().starts_with('!'))
    }

    /// Returns the lines, counted from 1, on which the word stands inside of an attribute.
    pub(super) fn attributes(&self, name: &str) -> Vec<usize> {
        let mut lines = Vec::new();
        for (at, _) in self.code.match_indices("#[") {
            let attribute = self.code.get(at..).unwrap_or_default();
            let mut depth = 0_i32;
            let end = attribute.find(|c| {
                depth += i32::from(c == '[') - i32::from(c == ']');
                c == ']' && depth == 0
            });
            let attribute = attribute.get(..end.unwrap_or(attribute.len())).unwrap_or_default();
            if words(attribute).any(|word| word == name) {
                lines.push(self.code.len_lines(at) + 1);
            }
        }
        lines
    }

    /// Returns the line and the name of every module declared here.
    pub(super) fn modules(&self) -> Vec<(usize, String)> {
        let mut modules = Vec::new();
        for (index, line) in self.code.lines().enumerate() {
            let mut words = words(line).skip_while(|word| *word != "mod").skip(1);
            if let Some(name) = words.next() {
                modules.push((index + 1, name.to_owned()));
            }
        }
        modules
    }

    fn lines_with(&self, name: &str, follows: impl Fn(&str) -> bool) -> Vec<usize> {
        let mut lines = Vec::new();
        for (at, _) in self.code.match_indices(name) {
            let before = self.code.get(..at).unwrap_or_default();
            let after = self.code.get(at + name.len()..).unwrap_or_default();
            if !before.ends_with(is_word) && follows(after) {
                lines.push(self.code.len_lines(at) + 1);
            }
        }
        lines
    }
}

/// How many lines end before a place.
trait LenLines {
    fn len_lines(&self, at: usize) -> usize;
}

impl LenLines for str {
    fn len_lines(&self, at: usize) -> usize {
        self.get(..at).unwrap_or_default().matches('\n').count()
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

/// Returns what follows the attributes at the start of `code`.
fn skip_attributes(code: &str) -> &str {
    let mut rest = code.trim_start();
    while rest.starts_with("#[") {
        let Some((_, after)) = rest.split_once(']') else { return "" };
        rest = after.trim_start();
    }
    rest
}

/// Returns where the body of a function ends, given the code from its name on; `None` if it has
/// no body.
fn body_end(code: &str) -> Option<usize> {
    let (mut brackets, mut braces) = (0_i32, 0_i32);
    for (at, c) in code.char_indices() {
        match c {
            // A semicolon in brackets belongs to an array type.
            ';' if brackets == 0 && braces == 0 => return None,
            '(' | '[' if braces == 0 => brackets += 1,
            ')' | ']' if braces == 0 => brackets -= 1,
            '{' if brackets == 0 => braces += 1,
            '}' if brackets == 0 => {
                braces -= 1;
                if braces == 0 {
                    return Some(at);
                }
                if braces < 0 {
                    return None;
                }
            }
            _ => {}
        }
    }
    None
}

/// Walks over a file and says of each character what it belongs to.
struct Scanner {
    chars: Vec<char>,
    at: usize,
    kinds: Vec<Kind>,
}

impl Scanner {
    fn step(&mut self) -> bool {
        let Some(c) = self.peek(0) else { return false };
        match (c, self.peek(1)) {
            ('/', Some('/')) => self.take_while(Kind::Comment, |c| c != '\n'),
            ('/', Some('*')) => self.block_comment(),
            ('"', _) => self.string(),
            ('\'', Some('\\')) => self.character(),
            ('\'', Some(_)) if self.peek(2) == Some('\'') => self.character(),
            _ if is_word(c) => self.word(),
            _ => self.take(Kind::Code, 1),
        }
        true
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn take(&mut self, kind: Kind, count: usize) {
        let count = count.min(self.chars.len() - self.at);
        self.kinds.extend(std::iter::repeat_n(kind, count));
        self.at += count;
    }

    fn take_while(&mut self, kind: Kind, wanted: impl Fn(char) -> bool) {
        while self.peek(0).is_some_and(&wanted) {
            self.take(kind, 1);
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_u32;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.take(Kind::Comment, 2);
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.take(Kind::Comment, 2);
                    if depth == 0 {
                        return;
                    }
                }
                (Some(_), _) => self.take(Kind::Comment, 1),
                (None, _) => return,
            }
        }
    }

    fn string(&mut self) {
        self.take(Kind::Literal, 1);
        self.until_closed_by('"');
    }

    fn character(&mut self) {
        self.take(Kind::Literal, 1);
        self.until_closed_by('\'');
    }

    fn until_closed_by(&mut self, quote: char) {
        while let Some(c) = self.peek(0) {
            self.take(Kind::Literal, if c == '\\' { 2 } else { 1 });
            if c == quote {
                return;
            }
        }
    }

    /// Takes a word; a raw string starts with one.
    fn word(&mut self) {
        let start = self.at;
        self.take_while(Kind::Code, is_word);
        let word: String = self.chars.get(start..self.at).unwrap_or_default().iter().collect();
        let hashes = (0..).take_while(|ahead| self.peek(*ahead) == Some('#')).count();
        let raw = ["r", "br", "cr"].contains(&word.as_str());
        if raw && self.peek(hashes) == Some('"') {
            self.take(Kind::Literal, hashes + 1);
            while self.peek(0).is_some() {
                let closed = self.peek(0) == Some('"')
                    && (1..=hashes).all(|ahead| self.peek(ahead) == Some('#'));
                self.take(Kind::Literal, if closed { hashes + 1 } else { 1 });
                if closed {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::line("a // {\nb", "a     \nb")]
    #[case::block("a /* { /* } */ { */ b", "a                   b")]
    #[case::string(r#"a "{ \" {" b"#, "a          b")]
    #[case::backslash(r#"a "\\" b"#, "a      b")]
    #[case::raw(r##"a r#"{ " \"# b"##, "a r          b")]
    #[case::bytes("a b\"{\" b", "a b    b")]
    #[case::character("a '{' b", "a     b")]
    #[case::quote(r"a '\'' b", "a      b")]
    #[case::double_quote("a '\"' b", "a     b")]
    #[case::byte("a b'{' b", "a b    b")]
    #[case::lifetime("<'a> { &'a b }", "<'a> { &'a b }")]
    #[case::raw_word("r#type { b }", "r#type { b }")]
    #[case::word_ending_in_r("bar\"{\"", "bar   ")]
    fn literals_and_comments_are_blank(#[case] text: &str, #[case] code: &str) {
        assert_eq!(Source::new(text).code, code);
    }

    #[rstest]
    #[case::none("a\nb\n", 2)]
    #[case::module("a\n#[cfg(test)]\nmod tests {\n}\n", 1)]
    #[case::attributes("a\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n}\n", 1)]
    #[case::elsewhere("a\n#[cfg(test)]\nmod tests;\nfn b() {}\n", 4)]
    #[case::helper("a\n#[cfg(test)]\nfn b() { mod x {} }\nc\n", 4)]
    #[case::second("a\n#[cfg(test)]\nuse b;\nc\n#[cfg(test)]\nmod tests {}\n", 4)]
    #[case::quoted("a\n// #[cfg(test)]\n// mod tests {\nb\n", 4)]
    fn tests_do_not_count(#[case] text: &str, #[case] lines: usize) {
        assert_eq!(Source::new(text).lines_before_tests(), lines);
    }

    #[rstest]
    #[case::plain("fn a() {\n}\n", "a 1 2")]
    #[case::one_line("\npub fn a() { b() }", "a 2 1")]
    #[case::declared("trait T { fn a(); fn b() {\n} }", "b 1 2")]
    #[case::pointer("struct S { f: fn (u8) -> u8 }", "")]
    #[case::arrays("fn a(x: [u8; 4]) -> [u8; 2] {\n{}\n}", "a 1 3")]
    #[case::clause("fn a<T>()\nwhere\n    T: Fn(u8),\n{\n}", "a 1 5")]
    #[case::inner("fn a() {\nfn b() {\n}\n}", "a 1 4, b 2 2")]
    #[case::brace_in_string("fn a() {\n\"}\";\n'}';\n}", "a 1 4")]
    #[case::word("let often = 1; fn_once {}", "")]
    #[case::macro_pattern("macro_rules! m { ($n:ident) => { fn $n() {} } }", "")]
    fn functions_are_measured(#[case] text: &str, #[case] expected: &str) {
        let functions = Source::new(text).functions();
        let found = functions.iter().map(|it| format!("{} {} {}", it.name, it.line, it.length));
        assert_eq!(found.collect::<Vec<_>>().join(", "), expected);
    }

    #[test]
    fn attributes_and_macros_are_found() {
        let source = Source::new(
            "#[ignore]\n#[cfg_attr(x, ignore = \"y\")]\nlet ignore = 1;\ntodo!();\nmytodo!();\n// todo!()\n",
        );
        assert_eq!(source.attributes("ignore"), [1, 2]);
        assert_eq!(source.macro_calls("todo"), [4]);
        assert!(source.comments.contains("// todo!()") && !source.comments.contains("let"));
    }

    proptest! {
        #[test]
        fn never_panics_and_keeps_lines(text in r#"([a-z {}\[\]();'"/*#\\\n]|fn |r#|#\[cfg\(test\)\]|mod ){0,60}"#) {
            let source = Source::new(&text);
            prop_assert_eq!(source.code.matches('\n').count(), text.matches('\n').count());
            prop_assert_eq!(source.code.chars().count(), text.chars().count());
            for function in source.functions() {
                prop_assert!(function.line + function.length <= text.lines().count() + 1);
            }
            prop_assert!(source.lines_before_tests() <= text.lines().count());
            source.attributes("a");
            source.modules();
        }
    }
}
