//! Structured attributes as declarations for bash: `.attrs.sh`.
//!
//! Follows `StructuredAttrs::writeShell` of Nix (`src/libstore/parsed-derivations.cc`): what bash has
//! no form for, such as nested lists, is left out.

use serde_json::{Map, Number, Value};

/// Returns declarations of all attributes that bash can hold, in the order of their names.
pub fn shell_declarations(attributes: &Map<String, Value>) -> String {
    let mut names: Vec<(&String, &Value)> = attributes.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    let named = names.into_iter().filter(|(name, _)| is_name(name));
    named.filter_map(|(name, value)| declaration(name, value)).collect()
}

fn declaration(name: &str, value: &Value) -> Option<String> {
    if let Some(word) = word(value) {
        return Some(format!("declare {name}={word}\n"));
    }
    match value {
        Value::Array(items) => {
            let words: Option<String> =
                items.iter().map(|item| word(item).map(|word| word + " ")).collect();
            Some(format!("declare -a {name}=({})\n", words?))
        }
        Value::Object(entries) => {
            let mut sorted: Vec<(&String, &Value)> = entries.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            let words: Option<String> = sorted
                .into_iter()
                .map(|(key, value)| Some(format!("[{}]={} ", quoted(key), word(value)?)))
                .collect();
            Some(format!("declare -A {name}=({})\n", words?))
        }
        _ => None,
    }
}

/// Returns a value that is one word.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(quoted(text)),
        Value::Number(number) => whole(number),
        Value::Null => Some("''".to_owned()),
        Value::Bool(true) => Some("1".to_owned()),
        Value::Bool(false) => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns a number without a fraction. Nix looks at it as a `float` and prints it as an `int`, so
/// that large ones lose their upper bits.
#[expect(clippy::cast_possible_truncation, reason = "as Nix does")]
fn whole(number: &Number) -> Option<String> {
    if let Some(number) = number.as_i64() {
        return Some((number as i32).to_string());
    }
    if let Some(number) = number.as_u64() {
        return Some((number as i32).to_string());
    }
    let number = number.as_f64()?;
    let single = number as f32;
    (single.ceil() == single).then(|| (number as i32).to_string())
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::text(r#"{"a": "it's $x"}"#, "declare a='it'\\''s $x'\n")]
    #[case::whole(r#"{"a": 3, "b": 3.0, "c": -1}"#, "declare a=3\ndeclare b=3\ndeclare c=-1\n")]
    #[case::fraction(r#"{"a": 1.5}"#, "")]
    #[case::null_and_booleans(
        r#"{"a": null, "b": true, "c": false}"#,
        "declare a=''\ndeclare b=1\ndeclare c=\n"
    )]
    #[case::list(r#"{"a": ["x", 2, true]}"#, "declare -a a=('x' 2 1 )\n")]
    #[case::empty(r#"{"a": [], "b": {}}"#, "declare -a a=()\ndeclare -A b=()\n")]
    #[case::table(r#"{"a": {"k y": "v", "b": 1}}"#, "declare -A a=(['b']=1 ['k y']='v' )\n")]
    #[case::nested(r#"{"a": [["x"]], "b": {"c": [1]}}"#, "")]
    #[case::no_name(r#"{"a-b": 1, "1a": 2, "": 3, "é": 4, "_A1": 5}"#, "declare _A1=5\n")]
    fn declares_like_nix(#[case] json: &str, #[case] expected: &str) {
        let attributes: Map<String, Value> = serde_json::from_str(json).unwrap();
        assert_eq!(shell_declarations(&attributes), expected);
    }
}
