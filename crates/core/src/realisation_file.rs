//! Realisations as the files of binary caches, `realisations/ID.doi`: JSON.
//!
//! Follows `Realisation::toJSON` and `fromJSON` in `src/libstore/realisation.cc` of Nix up to 2.34.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{DrvOutput, Realisation, StorePath};

/// A realisation as others tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldRealisation {
    /// The output, its path, and who vouches for both and for what follows.
    pub realisation: Realisation,
    /// What outputs became that it was made from and that it may refer to.
    pub dependencies: BTreeMap<DrvOutput, StorePath>,
}

impl From<Realisation> for ToldRealisation {
    fn from(realisation: Realisation) -> ToldRealisation {
        ToldRealisation { realisation, dependencies: BTreeMap::new() }
    }
}

impl ToldRealisation {
    /// Bytes that a file may have at the most.
    pub const MAX_FILE: u64 = 1024 * 1024;

    /// Returns the name of the file that tells what an output became, relative to the cache.
    pub fn file_name(id: &DrvOutput) -> String {
        format!("realisations/{id}.doi")
    }

    /// Returns the file's text.
    pub fn to_file(&self) -> String {
        let Realisation { id, out_path, signatures } = &self.realisation;
        let signatures: Vec<String> = signatures.iter().map(ToString::to_string).collect();
        serde_json::json!({
            "dependentRealisations": self.dependencies_as_json(),
            "id": id.to_string(),
            "outPath": out_path.base_name(),
            "signatures": signatures,
        })
        .to_string()
    }

    /// Returns the text that signatures sign: JSON without spaces, with sorted keys, as in Nix up to 2.34.
    pub fn fingerprint(&self) -> String {
        let Realisation { id, out_path, .. } = &self.realisation;
        serde_json::json!({
            "dependentRealisations": self.dependencies_as_json(),
            "id": id.to_string(),
            "outPath": out_path.base_name(),
        })
        .to_string()
    }

    fn dependencies_as_json(&self) -> Value {
        let pairs = self
            .dependencies
            .iter()
            .map(|(id, path)| (id.to_string(), Value::String(path.base_name().to_owned())));
        Value::Object(pairs.collect())
    }

    /// Reads the file of `id`. A signature that is none is passed over.
    ///
    /// # Errors
    ///
    /// The rule that it breaks.
    pub fn parse_file(text: &[u8], id: &DrvOutput) -> Result<ToldRealisation, &'static str> {
        let value: Value = serde_json::from_slice(text).map_err(|_| "it must be JSON")?;
        let field = |name: &str| value.get(name).and_then(Value::as_str);
        let named: DrvOutput =
            field("id").and_then(|text| text.parse().ok()).ok_or("its id must be HASH!OUTPUT")?;
        if named != *id {
            return Err("its id must be that of its URL");
        }
        let out_path = field("outPath")
            .and_then(|text| StorePath::from_base_name(text).ok())
            .ok_or("its outPath must be HASH-NAME")?;
        let signatures = value.get("signatures").and_then(Value::as_array).into_iter().flatten();
        let signatures = signatures.filter_map(|each| each.as_str()?.parse().ok()).collect();
        let dependencies = value.get("dependentRealisations").and_then(Value::as_object);
        let dependency = |(id, path): (&String, &Value)| {
            Some((id.parse().ok()?, StorePath::from_base_name(path.as_str()?).ok()?))
        };
        let dependencies = dependencies.into_iter().flatten().map(dependency);
        let dependencies: Option<_> = dependencies.collect();
        let dependencies =
            dependencies.ok_or("its dependentRealisations must be HASH!OUTPUT: HASH-NAME")?;
        let realisation = Realisation { id: named, out_path, signatures };
        Ok(ToldRealisation { realisation, dependencies })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let id: DrvOutput = format!("sha256:{}!out", "1".repeat(64)).parse().unwrap();
        let out_path =
            StorePath::from_base_name("00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60").unwrap();
        let realisation = Realisation { id: id.clone(), out_path, signatures: Default::default() };
        let told = ToldRealisation {
            dependencies: BTreeMap::from([(id.clone(), realisation.out_path.clone())]),
            realisation,
        };
        let text = told.to_file();
        assert_eq!(ToldRealisation::parse_file(text.as_bytes(), &id), Ok(told));
        let other: DrvOutput = format!("sha256:{}!out", "2".repeat(64)).parse().unwrap();
        assert!(ToldRealisation::parse_file(text.as_bytes(), &other).is_err());
        for bad in ["", "[]", "{}", "{\"id\": 1}", "\"x\""] {
            assert!(ToldRealisation::parse_file(bad.as_bytes(), &id).is_err(), "{bad}");
        }
    }
}
