//! Derivations that a client brings along: the store needn't have them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drover_core::{Hash, HashAlgorithm, StorePath};
use drover_derivation::{BasicDerivation, Derivation};
use drover_schedule::JobId;
use drover_store::{FailureCause, RealiseStatus, Realised, StoreError, Substitute};

use crate::fleet::Target;
use crate::graph::NodeId;
use crate::prepare::{JobPlan, Work, fetch_infos};
use crate::service::request::{Asked, Request};
use crate::service::table::{Content, Key};
use crate::terms::JobTerms;

impl Request {
    /// Builds a derivation whose inputs are valid.
    pub(crate) async fn build_given(
        &self,
        path: StorePath,
        basic: BasicDerivation,
    ) -> Result<Realised, StoreError> {
        if let Some(answer) = self.is_there(&basic).await? {
            return Ok(answer);
        }
        let inputs = basic.input_sources.clone();
        let mut valid = self.store.hold_valid(&inputs, Substitute::No).await?;
        if self.settings.substitute == Substitute::Yes && valid.len() < inputs.len() {
            let lacking = inputs.difference(&valid).cloned().collect();
            valid.extend(self.store.hold_valid(&lacking, Substitute::Yes).await?);
        }
        if let Some(input) = inputs.difference(&valid).next() {
            let shown = self.store.store_dir().display(input);
            let message = format!("input '{shown}' of the derivation is not valid");
            return Ok(Realised::failed(FailureCause::Refused, message));
        }
        let derivation = Arc::new(Derivation::from(basic));
        let text = derivation.to_aterm(self.store.store_dir());
        let hash = Hash::of(HashAlgorithm::Sha256, &text).digest().to_vec();
        let key = Key { derivation: path.clone(), content: Content::Given(hash) };
        let mut work = Work::default();
        work.jobs = vec![JobPlan {
            node: NodeId(0),
            path: path.clone(),
            derivation: Arc::clone(&derivation),
            dependencies: Vec::new(),
            built_inputs: Vec::new(),
            inputs: inputs.into_iter().collect(),
            realisations: None,
            terms: JobTerms::default(),
        }];
        fetch_infos(self.store.as_ref(), &mut work, Substitute::No).await?;
        let target = Target { derivation: path, outputs: BTreeSet::new() };
        let asked = Asked { at: 0, target, derivation };
        let built = self.build(work, vec![key], &[(asked, JobId(0))]).await?;
        let lost = || Realised::failed(FailureCause::Other, "nothing became of it");
        Ok(built.into_iter().next().unwrap_or_else(lost))
    }

    /// Answers where all outputs are valid already.
    async fn is_there(&self, basic: &BasicDerivation) -> Result<Option<Realised>, StoreError> {
        let named = basic.outputs.iter();
        let outputs: Option<BTreeMap<String, StorePath>> =
            named.map(|(name, output)| Some((name.to_string(), output.path()?.clone()))).collect();
        let Some(outputs) = outputs else { return Ok(None) };
        let paths: BTreeSet<StorePath> = outputs.values().cloned().collect();
        let valid = self.store.hold_valid(&paths, Substitute::No).await?;
        Ok((valid.len() == paths.len()).then(|| Realised {
            status: RealiseStatus::AlreadyValid,
            message: String::new(),
            outputs,
            period: None,
        }))
    }
}
