//! The graphs of references that a build asks for: `exportReferencesGraph`, in both forms.
//!
//! Follows `LocalStore::exportReferences` and `makeValidityRegistration` of Nix
//! (`src/libstore/misc.cc`, `store-api.cc`), and `pathInfoToJSON` for structured attributes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use drover_core::{PathInfo, StoreDir, StorePath};
use drover_derivation::BasicDerivation;
use serde_json::{Map, Value, json};

use crate::RecipeError;

const ATTRIBUTE: &str = "exportReferencesGraph";

/// What is asked for: names of files or attributes, and the paths whose closures go there.
pub type Graphs = BTreeMap<String, BTreeSet<StorePath>>;

/// Returns what is to be told of structured attributes that ask for graphs in a form that is passed over.
pub fn passed_over(attributes: &Map<String, Value>) -> Option<&'static str> {
    let is_odd = attributes.get(ATTRIBUTE).is_some_and(|graphs| !graphs.is_object());
    is_odd.then_some(
        "warning: 'exportReferencesGraph' in structured attrs is not a JSON object, ignoring",
    )
}

/// Returns the graphs that a derivation asks for.
///
/// # Errors
///
/// Names that no file may have, and texts that are no paths of the store.
pub fn wanted(derivation: &BasicDerivation, store_dir: &StoreDir) -> Result<Graphs, RecipeError> {
    match derivation.structured_attributes()? {
        Some(attributes) => match attributes.0.get(ATTRIBUTE) {
            Some(graphs) => of_structured(graphs, store_dir),
            None => Ok(Graphs::new()),
        },
        None => of_text(derivation.environment.get(ATTRIBUTE).unwrap_or_default(), store_dir),
    }
}

fn of_text(text: &[u8], store_dir: &StoreDir) -> Result<Graphs, RecipeError> {
    let text = String::from_utf8_lossy(text);
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (pairs, odd) = words.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(RecipeError::OddGraph { count: words.len() });
    }
    let mut graphs = Graphs::new();
    for [name, path] in pairs {
        if !is_file_name(name) {
            return Err(RecipeError::GraphName { name: (*name).to_owned() });
        }
        let path = path_of(path, store_dir)?;
        graphs.entry((*name).to_owned()).or_default().insert(path);
    }
    Ok(graphs)
}

fn of_structured(graphs: &Value, store_dir: &StoreDir) -> Result<Graphs, RecipeError> {
    let wrong = || RecipeError::Type {
        attribute: ATTRIBUTE.to_owned(),
        expected: "an object of store paths and lists of them, which may be nested",
    };
    // what is no object is told of and passed over, as by Nix
    let Some(graphs) = graphs.as_object() else { return Ok(Graphs::new()) };
    let graph = |(name, roots): (&String, &Value)| {
        let roots: Result<BTreeSet<StorePath>, RecipeError> = leaves(roots)
            .map(|root| path_of(root.as_str().ok_or_else(wrong)?, store_dir))
            .collect();
        Ok((name.clone(), roots?))
    };
    graphs.iter().map(graph).collect()
}

/// Returns a value, or what stands in a list and in the lists in it. The depth has the bound that the
/// parser of JSON has.
fn leaves(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter().flat_map(leaves)),
        value => Box::new(std::iter::once(value)),
    }
}

fn is_file_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// Returns the store path that a path is or lies in.
fn path_of(text: &str, store_dir: &StoreDir) -> Result<StorePath, RecipeError> {
    let outside = || RecipeError::NotInStore { attribute: ATTRIBUTE, text: text.to_owned() };
    let inner = text.strip_prefix(store_dir.as_str()).and_then(|rest| rest.strip_prefix('/'));
    let base = inner.and_then(|inner| inner.split('/').next()).ok_or_else(outside)?;
    StorePath::from_base_name(base).map_err(|_| outside())
}

/// Returns a graph as `nix-store --register-validity` reads it: for each path its own line, an empty
/// one, the number of its references and these.
pub fn as_text(closure: &[PathInfo], store_dir: &StoreDir) -> String {
    let mut text = String::new();
    for info in sorted(closure) {
        text.push_str(&store_dir.display(&info.path));
        text.push_str("\n\n");
        text.push_str(&format!("{}\n", info.references.len()));
        for reference in &info.references {
            text.push_str(&store_dir.display(reference));
            text.push('\n');
        }
    }
    text
}

/// Returns a graph as the value that takes an attribute's place.
pub fn as_json(closure: &[PathInfo], store_dir: &StoreDir) -> Value {
    let known: HashMap<&StorePath, &PathInfo> =
        closure.iter().map(|info| (&info.path, info)).collect();
    let entry = |info: &PathInfo| {
        let references: Vec<String> =
            info.references.iter().map(|path| store_dir.display(path)).collect();
        let mut entry = Map::new();
        if let Some(address) = &info.content_address {
            entry.insert("ca".to_owned(), json!(address.to_string()));
        }
        entry.insert("closureSize".to_owned(), json!(closure_size(&info.path, &known)));
        entry.insert("narHash".to_owned(), json!(info.nar_hash.to_string()));
        entry.insert("narSize".to_owned(), json!(info.nar_size.0));
        entry.insert("path".to_owned(), json!(store_dir.display(&info.path)));
        entry.insert("references".to_owned(), json!(references));
        entry.insert("valid".to_owned(), json!(true));
        Value::Object(entry)
    };
    Value::Array(sorted(closure).into_iter().map(entry).collect())
}

fn sorted(closure: &[PathInfo]) -> Vec<&PathInfo> {
    let mut sorted: Vec<&PathInfo> = closure.iter().collect();
    sorted.sort_by_key(|info| &info.path);
    sorted
}

fn closure_size(root: &StorePath, known: &HashMap<&StorePath, &PathInfo>) -> u64 {
    let (mut left, mut seen, mut size) = (vec![root], BTreeSet::from([root]), 0_u64);
    while let Some(path) = left.pop() {
        let Some(info) = known.get(path) else { continue };
        size = size.saturating_add(info.nar_size.0);
        left.extend(info.references.iter().filter(|path| seen.insert(path)));
    }
    size
}

#[cfg(test)]
mod tests {
    use drover_core::{NarHash, NarSize};
    use rstest::rstest;

    use super::*;

    const A: &str = "/nix/store/00000000000000000000000000000000-a";
    const B: &str = "/nix/store/11111111111111111111111111111111-b";

    fn store_dir() -> StoreDir {
        "/nix/store".parse().unwrap()
    }

    fn info(path: &str, size: u64, references: &[&str]) -> PathInfo {
        let parse = |text: &str| store_dir().parse(text).unwrap();
        PathInfo {
            path: parse(path),
            deriver: None,
            nar_hash: NarHash([0; 32]),
            nar_size: NarSize(size),
            references: references.iter().map(|text| parse(text)).collect(),
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: None,
        }
    }

    #[test]
    fn reads_pairs() {
        let graphs = of_text(format!(" g {A}\n h.x {B}/bin  g {B}").as_bytes(), &store_dir());
        let names: Vec<(String, usize)> =
            graphs.unwrap().into_iter().map(|(name, roots)| (name, roots.len())).collect();
        assert_eq!(names, [("g".to_owned(), 2), ("h.x".to_owned(), 1)]);
    }

    #[rstest]
    #[case::odd("g", "pairs")]
    #[case::name("../g /nix/store/x", "invalid file name '../g'")]
    #[case::elsewhere("g /etc/shadow", "'/etc/shadow', which is not in the store")]
    #[case::no_path("g /nix/store/.links", "not in the store")]
    fn refuses_in_words(#[case] text: &str, #[case] expected: &str) {
        let error = of_text(text.as_bytes(), &store_dir()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn reads_lists_in_lists() {
        let graphs = of_structured(&json!({ "g": A, "h": [A, [[B]]], "i": [] }), &store_dir());
        let names: Vec<(String, usize)> =
            graphs.unwrap().into_iter().map(|(name, roots)| (name, roots.len())).collect();
        assert_eq!(names, [("g".to_owned(), 1), ("h".to_owned(), 2), ("i".to_owned(), 0)]);
        assert_eq!(of_structured(&json!([A]), &store_dir()).unwrap(), Graphs::new());
        let error = of_structured(&json!({ "g": [[3]] }), &store_dir()).unwrap_err().to_string();
        assert!(error.contains("lists of them"), "{error}");
    }

    #[test]
    fn prints_what_registration_reads() {
        let closure = [info(B, 3, &[A, B]), info(A, 4, &[])];
        let text = as_text(&closure, &store_dir());
        assert_eq!(text, format!("{A}\n\n0\n{B}\n\n2\n{A}\n{B}\n"));
    }

    #[test]
    fn closures_have_sizes() {
        let graph = as_json(&[info(B, 3, &[A, B]), info(A, 4, &[])], &store_dir());
        assert_eq!(graph.pointer("/0/closureSize"), Some(&json!(4)));
        assert_eq!(graph.pointer("/1/closureSize"), Some(&json!(7)));
        assert_eq!(graph.pointer("/1/references"), Some(&json!([A, B])));
        assert_eq!(graph.pointer("/1/valid"), Some(&json!(true)));
    }
}
