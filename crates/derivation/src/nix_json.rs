//! JSON byte for byte as Nix writes it: escapes, numbers, indentation.
//!
//! Follows `src/libutil/json.cc` of Nix 2.8, and the serializer of nlohmann-json, which later Nix
//! uses.

use std::collections::BTreeMap;
use std::io::{Result, Write};

use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

/// Whether the text has line breaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// All on one line.
    Compact,
    /// Two spaces for each level.
    Pretty,
}

/// How control characters are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Escapes {
    /// As most programs do.
    Json,
    /// Backspace and form feed as numbers.
    Nix2_8,
}

/// A value whose objects are printed with sorted keys.
pub(crate) struct NixValue(pub(crate) Value);

impl Serialize for NixValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        Sorted(&self.0).serialize(serializer)
    }
}

struct Sorted<'a>(&'a Value);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(items) => serializer.collect_seq(items.iter().map(Sorted)),
            Value::Object(entries) => {
                let sorted: BTreeMap<&String, Sorted<'_>> =
                    entries.iter().map(|(key, value)| (key, Sorted(value))).collect();
                serializer.collect_map(sorted)
            }
            scalar => scalar.serialize(serializer),
        }
    }
}

/// Returns a value as Nix prints it on one line, with sorted keys: what a build with structured
/// attributes finds in `.attrs.json`.
pub fn compact_json(value: Value) -> String {
    print(&NixValue(value), Layout::Compact, Escapes::Json)
}

/// Returns `value` as JSON.
pub(crate) fn print(value: &impl Serialize, layout: Layout, escapes: Escapes) -> String {
    let mut out = Vec::new();
    let formatter = NixFormatter { layout, escapes, depth: 0, has_items: false };
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // Neither a vector nor strings and maps with strings for keys can fail.
    value.serialize(&mut serializer).unwrap_or_default();
    String::from_utf8(out).unwrap_or_default()
}

struct NixFormatter {
    layout: Layout,
    escapes: Escapes,
    depth: usize,
    has_items: bool,
}

impl NixFormatter {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> Result<()> {
        self.depth += 1;
        self.has_items = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> Result<()> {
        self.depth = self.depth.saturating_sub(1);
        if self.has_items {
            self.break_line(writer)?;
        }
        writer.write_all(bracket)
    }

    fn item<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        self.break_line(writer)
    }

    fn break_line<W: ?Sized + Write>(&self, writer: &mut W) -> Result<()> {
        match self.layout {
            Layout::Compact => Ok(()),
            Layout::Pretty => write!(writer, "\n{:1$}", "", self.depth * 2),
        }
    }
}

impl Formatter for NixFormatter {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> Result<()> {
        writer.write_all(float(value).as_bytes())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> Result<()> {
        match (self.escapes, escape) {
            (Escapes::Nix2_8, CharEscape::Backspace) => writer.write_all(b"\\u0008"),
            (Escapes::Nix2_8, CharEscape::FormFeed) => writer.write_all(b"\\u000c"),
            (_, escape) => CompactFormatter.write_char_escape(writer, escape),
        }
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<()> {
        self.item(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> Result<()> {
        self.has_items = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        writer.write_all(if self.layout == Layout::Pretty { b": " } else { b":" })
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> Result<()> {
        self.has_items = true;
        Ok(())
    }
}

/// Returns a finite number with the fewest digits that tell it: plain from 0.0001 to below 10^15,
/// with an exponent of two digits or more else.
fn float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if value == 0.0 || (-4..15).contains(&exponent) {
        return format!("{value:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    /// What nlohmann-json makes of numbers in structured attributes (see also the goldens).
    #[rstest]
    #[case::zero(0.0, "0.0")]
    #[case::minus_zero(-0.0, "-0.0")]
    #[case::half(0.5, "0.5")]
    #[case::whole(100.0, "100.0")]
    #[case::fifteen_digits(123_456_789_012_345.0, "123456789012345.0")]
    #[case::large(1e15, "1e+15")]
    #[case::larger(1.5e30, "1.5e+30")]
    #[case::small(0.0001, "0.0001")]
    #[case::smaller(0.00001, "1e-05")]
    #[case::smallest(5e-324, "5e-324")]
    fn prints_floats_like_nix(#[case] value: f64, #[case] expected: &str) {
        assert_eq!(float(value), expected);
    }
}
