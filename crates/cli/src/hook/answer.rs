//! Drover as Nix's build hook (`build-hook = drover hook`).
//!
//! What is asked is answered from what is written of the machines and from what the daemon for hooks
//! knows of them; an answer waits for a network only where it isn't known yet whether any machine can be
//! used and Nix could build here as well. The Nix that asks has the outputs locked until this
//! process ends, so they are added to its store without these locks.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use drover_config::{Machine, Override};
use drover_daemon::{Need, Outlook, Wait, question as asking};
use drover_hook::{Choice, Conversation, LocalMachine, Question, Reply, Settings, choose, refusal};
use drover_store_local::{Layout, Place};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::machines::Builders;
use super::order::{Accepted, carry_out};
use super::{behind, connect};
use crate::configuration::Configuration;
use crate::exit::ExitStatus;
use crate::terminal::Terminal;
use crate::{own_builder, own_store};

/// For how long the daemon may think about how it is with the machines. It answers at once.
const THOUGHT: Duration = Duration::from_millis(500);

/// For how long the user may wait until it's known whether a machine can be used, where Nix could build as
/// well itself: connecting takes less if there is anybody.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it's asked meanwhile.
const AGAIN: Duration = Duration::from_millis(50);

/// Bytes of an answer.
const MAX_ANSWER: u64 = 64 * 1024;

/// Builds that are taken for each slot: so that the next one is at hand when a slot becomes free. Each
/// takes a process here and descriptors of Nix.
const AHEAD: u32 = 2;

/// Builds that are taken however few slots there are: one that is put off Nix offers again after five
/// seconds, and in those many that are short can be done.
const AT_LEAST: u32 = 128;

/// Settings of the Nix that asks that count here as well; others are read from the same files.
const TAKEN_OVER: [&str; 12] = [
    "builders",
    "builders-use-substitutes",
    "connect-timeout",
    "experimental-features",
    "extra-platforms",
    "keep-failed",
    "max-build-log-size",
    "max-silent-time",
    "store",
    "system",
    "system-features",
    "timeout",
];

/// Answers one question after another, and carries out the build that was accepted.
///
/// # Errors
///
/// What Nix says can't be understood, or the build has failed; Nix is told of the latter.
pub(super) async fn run(terminal: &Terminal) -> anyhow::Result<ExitStatus> {
    // both block: Nix is the only one who is waited for, and it waits for the answer
    let mut talk = Conversation::new(std::io::stdin(), std::io::stderr());
    let settings = talk.settings()?;
    let configuration = Configuration::load_beside_nix(&overrides(&settings), terminal)?;
    let layout = layout(&configuration)?;
    let local = local_machine(&configuration);
    let builders = Builders::given(Some(&configuration.settings.builders), &configuration);
    let machines = behind::configured(&configuration, terminal)?;
    let mut warned = Warned::default();
    while let Some(question) = talk.question(&layout.store_dir)? {
        let answer = answer(&configuration, &builders, &machines, &local, &question).await?;
        if let Some(words) = answer.words.filter(|words| warned.is_new(words)) {
            talk.warn(&words.text())?;
        }
        talk.reply(&answer.reply)?;
        match answer.reply {
            Reply::Accept { machine } => {
                let order = talk.order(&layout.store_dir)?;
                let accepted = Accepted { question, order, machine, layout };
                return carry_out(accepted, &configuration, &builders).await;
            }
            Reply::DeclineForGood => return Ok(ExitStatus::SUCCESS),
            Reply::Decline | Reply::Postpone => {}
        }
    }
    Ok(ExitStatus::SUCCESS)
}

fn overrides(settings: &Settings) -> Vec<Override> {
    let known = TAKEN_OVER.iter().filter_map(|name| Some((name, settings.get(*name)?)));
    known.map(|(name, value)| Override::option(name, value)).collect()
}

/// Returns where the store is of the Nix that asks: only one that has its files at hand asks a hook.
fn layout(configuration: &Configuration) -> anyhow::Result<Layout> {
    let reference = &configuration.settings.store;
    match own_store::place(reference)? {
        Some(Place::Local(layout) | Place::Own(layout)) => Ok(layout),
        Some(Place::Daemon(socket)) => bail!(
            "the store is behind the daemon at '{}', which is who must be told of a build hook",
            socket.display()
        ),
        None => bail!("'{reference}' is not a local store"),
    }
}

fn local_machine(configuration: &Configuration) -> LocalMachine {
    LocalMachine {
        systems: own_builder::systems(configuration),
        features: configuration.settings.system_features.clone(),
    }
}

/// Where something can be built at once if drover declines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Otherwise {
    /// By the Nix that asks.
    Here,
    Nowhere,
}

/// An answer, with what the user is told beside it.
struct Answer {
    reply: Reply,
    words: Option<Words>,
}

/// What the user is told of a build that is declined.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Words {
    /// No machine takes such a build.
    Unsuited(String),
    /// None can be used now.
    Unusable { derivation: String, reason: String },
}

impl Words {
    fn text(&self) -> String {
        match self {
            Words::Unsuited(text) => text.clone(),
            Words::Unusable { derivation, reason } => {
                format!("cannot build '{derivation}' elsewhere: {reason}")
            }
        }
    }
}

/// What the user has been told: Nix asks about all that waits whenever a slot is free, and hears of machines that are
/// down as often.
#[derive(Debug, Default)]
struct Warned(BTreeSet<String>);

impl Warned {
    /// Takes note of words; returns whether they say something new. How long ago a machine failed is nothing new, nor
    /// which build it is that none can take.
    fn is_new(&mut self, words: &Words) -> bool {
        let essence = match words {
            Words::Unsuited(text) => text.clone(),
            Words::Unusable { reason, .. } => without_ages(reason),
        };
        self.0.insert(essence)
    }
}

/// Returns what is said of machines without the words `3 s ago`.
fn without_ages(reason: &str) -> String {
    let words: Vec<&str> = reason.split(' ').collect();
    let is_age = |at: usize| matches!(words.get(at..at + 3), Some([_, "s", "ago:"]));
    let in_age = |at: usize| (at.saturating_sub(2)..=at).any(is_age);
    let kept = words.iter().enumerate().filter(|(at, _)| !in_age(*at)).map(|(_, word)| *word);
    kept.collect::<Vec<_>>().join(" ")
}

async fn answer(
    configuration: &Configuration,
    builders: &Builders,
    machines: &[Machine],
    local: &LocalMachine,
    question: &Question,
) -> anyhow::Result<Answer> {
    let derivation = configuration.store_dir.display(&question.derivation);
    let decline = |words| Answer { reply: Reply::Decline, words };
    let fitting = match choose(machines, question) {
        Choice::NoMachines => return Ok(Answer { reply: Reply::DeclineForGood, words: None }),
        Choice::NoneFits => {
            // where Nix builds it itself there is nothing to complain of
            let words =
                (!local.can_build_now(question)).then(|| refusal(machines, question, &derivation));
            return Ok(decline(words.map(Words::Unsuited)));
        }
        Choice::Fitting(fitting) => fitting,
    };
    let need = Need { system: question.system.clone(), features: question.features.clone() };
    let otherwise = match local.can_build_now(question) {
        true => Otherwise::Here,
        false => Otherwise::Nowhere,
    };
    let outlook = outlook_in_time(configuration, builders, &need, otherwise).await;
    Ok(match reply(outlook, otherwise, || name_of(&fitting)) {
        Ok(reply) => Answer { reply, words: None },
        Err(reason) => decline(Some(Words::Unusable { derivation, reason })),
    })
}

/// Returns the answer to a question, or why no machine can be used.
fn reply(
    outlook: Outlook,
    otherwise: Otherwise,
    machine: impl FnOnce() -> String,
) -> Result<Reply, String> {
    match outlook {
        Outlook::Usable { free: 0, .. } | Outlook::Draining { .. }
            if otherwise == Otherwise::Here =>
        {
            Ok(Reply::Decline)
        }
        Outlook::Usable { slots, open, .. } | Outlook::Draining { slots, open, .. }
            if slots.saturating_mul(AHEAD).max(AT_LEAST) <= open =>
        {
            Ok(Reply::Postpone)
        }
        // where Nix can't build it, what is wrong with the machines is told when it's known; and it waits for
        // one that drains
        Outlook::Usable { .. } | Outlook::Draining { .. } | Outlook::Unknown { .. } => {
            Ok(Reply::Accept { machine: machine() })
        }
        Outlook::Unusable { reason } => Err(reason),
    }
}

fn name_of(fitting: &[&Machine]) -> String {
    match fitting {
        [only] => only.store_uri.to_string(),
        _ => "drover".to_owned(),
    }
}

/// Asks the daemon how it is with the machines, and again for a while if that will be known in a moment and
/// Nix could build itself.
async fn outlook_in_time(
    configuration: &Configuration,
    builders: &Builders,
    need: &Need,
    otherwise: Otherwise,
) -> Outlook {
    let end = Instant::now() + PATIENCE;
    loop {
        let outlook = match outlook(configuration, builders, need).await {
            Ok(Some(outlook)) => outlook,
            // one that is kept from answering for a moment says nothing of its machines
            Ok(None) => {
                let trouble = "the daemon for hooks doesn't answer".to_owned();
                Outlook::Unknown { wait: Wait::Worthwhile, trouble }
            }
            Err(error) => return Outlook::Unusable { reason: format!("{error:#}") },
        };
        match outlook {
            Outlook::Unknown { wait: Wait::Worthwhile, .. }
                if otherwise == Otherwise::Here && Instant::now() < end =>
            {
                sleep(AGAIN).await;
            }
            // here it can be built at once
            Outlook::Unknown { trouble: reason, .. } if otherwise == Otherwise::Here => {
                return Outlook::Unusable { reason };
            }
            outlook => return outlook,
        }
    }
}

/// Asks the daemon once; it may not answer in time.
async fn outlook(
    configuration: &Configuration,
    builders: &Builders,
    need: &Need,
) -> anyhow::Result<Option<Outlook>> {
    let mut daemon = connect::reach(configuration, builders).await?.stream;
    let asked = async {
        daemon.write_all(&asking(need)).await?;
        let mut answer = Vec::new();
        daemon.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let Ok(answer) = timeout(THOUGHT, asked).await else { return Ok(None) };
    let outlook = Outlook::from_bytes(&answer?);
    Ok(Some(outlook.context("the daemon for hooks answers something else")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_machine_that_drains_could_take_waits() {
        let draining = |open| Outlook::Draining { slots: 2, open, reason: "it drains".to_owned() };
        let reply = |open, otherwise| reply(draining(open), otherwise, || "b1".to_owned());
        let accepted = Ok(Reply::Accept { machine: "b1".to_owned() });
        assert_eq!(reply(3, Otherwise::Nowhere), accepted);
        assert_eq!(reply(AT_LEAST, Otherwise::Nowhere), Ok(Reply::Postpone));
        assert_eq!(reply(3, Otherwise::Here), Ok(Reply::Decline));
    }

    /// Nix asks anew about each build that waits: with n of them n² times.
    #[test]
    fn machines_that_are_down_are_told_of_once() {
        let mut warned = Warned::default();
        let mut is_new = |derivation: &str, reason: &str| {
            let (derivation, reason) = (derivation.to_owned(), reason.to_owned());
            warned.is_new(&Words::Unusable { derivation, reason })
        };
        let down = |b1: &str, b2: &str| format!("no machine can be used now: 'b1' {b1}; 'b2' {b2}");
        let (refused, route) = ("3 s ago: Connection refused", "12 s ago: No route to host");
        assert!(is_new("x.drv", &down("has not greeted yet", "has not greeted yet")));
        assert!(is_new("x.drv", &down(refused, route)));
        assert!(!is_new(
            "y.drv",
            &down("4 s ago: Connection refused", "0 s ago: No route to host")
        ));
        assert!(is_new("y.drv", &down(route, refused)), "it's another failure");
        assert!(is_new("y.drv", "the daemon for hooks has not started"));
        assert!(warned.is_new(&Words::Unsuited("no machine can build 'x.drv'".to_owned())));
        assert!(warned.is_new(&Words::Unsuited("no machine can build 'y.drv'".to_owned())));
        assert!(!warned.is_new(&Words::Unsuited("no machine can build 'y.drv'".to_owned())));
    }
}
