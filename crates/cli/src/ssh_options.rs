//! `NIX_SSHOPTS`: further arguments for `ssh`, split as a shell would.
//!
//! Follows `getNixSshOpts` (`src/libstore/ssh.cc`) and `shellSplitString`
//! (`src/libutil/strings.cc`) of Nix: quotes and backslashes, nothing else.

/// Why arguments could not be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("NIX_SSHOPTS has a {quote} that is not closed; it is split as a shell does it")]
pub(crate) struct UnclosedQuote {
    quote: char,
}

/// Splits the value of `NIX_SSHOPTS` into arguments.
pub(crate) fn split(text: &str) -> Result<Vec<String>, UnclosedQuote> {
    let mut arguments = Vec::new();
    let mut current: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => arguments.extend(current.take()),
            '\'' => single_quoted(&mut chars, current.get_or_insert_default())?,
            '"' => double_quoted(&mut chars, current.get_or_insert_default())?,
            // a backslash at the very end says nothing
            '\\' => current.get_or_insert_default().extend(chars.next()),
            _ => current.get_or_insert_default().push(c),
        }
    }
    arguments.extend(current);
    Ok(arguments)
}

fn single_quoted(
    chars: &mut impl Iterator<Item = char>,
    into: &mut String,
) -> Result<(), UnclosedQuote> {
    for c in chars {
        match c {
            '\'' => return Ok(()),
            _ => into.push(c),
        }
    }
    Err(UnclosedQuote { quote: '\'' })
}

fn double_quoted(
    chars: &mut impl Iterator<Item = char>,
    into: &mut String,
) -> Result<(), UnclosedQuote> {
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok(()),
            '\\' => match chars.next() {
                Some(escaped @ ('$' | '`' | '"' | '\\')) => into.push(escaped),
                Some(other) => into.extend(['\\', other]),
                None => break,
            },
            _ => into.push(c),
        }
    }
    Err(UnclosedQuote { quote: '"' })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::empty("", &[])]
    #[case::blanks("  \t ", &[])]
    #[case::words("-p 2222  -oUser=x", &["-p", "2222", "-oUser=x"])]
    #[case::double(r#"-o "ProxyCommand=nc %h %p""#, &["-o", "ProxyCommand=nc %h %p"])]
    #[case::single("-o 'A \"b\" \\c'", &["-o", "A \"b\" \\c"])]
    #[case::inside_a_word(r#"-oA="b c"d"#, &["-oA=b cd"])]
    #[case::empty_argument(r#"a "" ''"#, &["a", "", ""])]
    #[case::escapes(r#"a\ b "\$\`\"\\\n""#, &["a b", "$`\"\\\\n"])]
    fn splits_like_nix(#[case] text: &str, #[case] expected: &[&str]) {
        assert_eq!(split(text).unwrap(), expected);
    }

    #[rstest]
    #[case("a \"b", '"')]
    #[case("a 'b\"", '\'')]
    #[case("\"a\\", '"')]
    fn wants_quotes_closed(#[case] text: &str, #[case] quote: char) {
        assert_eq!(split(text), Err(UnclosedQuote { quote }));
    }

    proptest! {
        #[test]
        fn quoted_arguments_come_back(arguments: Vec<String>) {
            let quoted: Vec<String> = arguments
                .iter()
                .map(|argument| format!("'{}'", argument.replace('\'', "'\\''")))
                .collect();
            prop_assert_eq!(split(&quoted.join(" ")), Ok(arguments));
        }

        #[test]
        fn never_panics(text: String) {
            drop(split(&text));
        }
    }
}
