//! What goes on, as Nix's loggers tell it: activities that begin, come further and end.
//!
//! The numbers of their kinds, which fields they have in which order, and what people are told of them stand
//! here alone, for the protocol and for lines of JSON alike. Follows `ActivityType` and `ResultType`
//! (`src/libutil/include/nix/util/logging.hh`), `JSONLogger` (`src/libutil/logging.cc`), and those who begin
//! activities: `derivation-building-goal.cc`, `substitution-goal.cc` and `copyStorePath` (`store-api.cc`).

use serde_json::{Value, json};

use crate::raw_text::without_raw;

/// Number of an activity, given by who tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActivityId(pub u64);

impl ActivityId {
    /// What activities are part of that are part of nothing.
    pub const NONE: ActivityId = ActivityId(0);
}

/// A value that an activity or its result carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Number(u64),
    /// A text; what isn't UTF-8 is replaced.
    Text(String),
}

/// Something that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity<'a> {
    /// Paths are made valid: the whole of a request.
    Realise,
    /// Derivations are built: all of them.
    Builds,
    /// A derivation is built.
    Build {
        /// The whole path of the derivation.
        derivation: &'a str,
        /// Where; empty for the machine that tells of it.
        machine: &'a str,
    },
    /// A derivation waits for a machine, or for others that build it.
    Waits {
        /// The whole path of the derivation; empty where it isn't told.
        derivation: &'a str,
        /// Why; empty where it isn't told.
        reason: &'a str,
    },
    /// A path is fetched from a substituter: the whole of it.
    Substitute {
        /// The whole path.
        path: &'a str,
        /// The substituter.
        from: &'a str,
    },
    /// A path is copied here.
    CopyPath {
        /// The whole path.
        path: &'a str,
        /// Where from.
        from: &'a str,
    },
    /// Several paths are copied.
    CopyPaths {
        /// How many, and which way.
        text: &'a str,
    },
    /// A file is fetched.
    FileTransfer {
        /// Where from.
        url: &'a str,
    },
}

const COPY_PATH: u64 = 100;
const FILE_TRANSFER: u64 = 101;
const REALISE: u64 = 102;
const COPY_PATHS: u64 = 103;
const BUILDS: u64 = 104;
const BUILD: u64 = 105;
const SUBSTITUTE: u64 = 108;
const BUILD_WAITING: u64 = 111;

/// What Nix says of something that waits.
const WAITING: &str = "waiting for a machine to build '";

impl<'a> Activity<'a> {
    /// Returns what goes on, if it is one of those that drover knows. Fields that are missing are empty.
    pub fn read(kind: u64, text: &'a str, fields: &'a [Field]) -> Option<Activity<'a>> {
        Some(match kind {
            REALISE => Activity::Realise,
            BUILDS => Activity::Builds,
            BUILD => {
                Activity::Build { derivation: text_at(fields, 0), machine: text_at(fields, 1) }
            }
            BUILD_WAITING => {
                // what Nix says of it names the derivation in its text alone, or only the files that are locked
                let (derivation, reason) = read_waiting(text).unwrap_or(("", text));
                let derivation = match text_at(fields, 0) {
                    "" => derivation,
                    told => told,
                };
                Activity::Waits { derivation, reason }
            }
            SUBSTITUTE => {
                Activity::Substitute { path: text_at(fields, 0), from: text_at(fields, 1) }
            }
            COPY_PATH => Activity::CopyPath { path: text_at(fields, 0), from: text_at(fields, 1) },
            COPY_PATHS => Activity::CopyPaths { text },
            FILE_TRANSFER => Activity::FileTransfer { url: text_at(fields, 0) },
            _ => return None,
        })
    }

    /// Returns its kind, by the numbers of `ActivityType`.
    pub fn kind(&self) -> u64 {
        match self {
            Activity::Realise => REALISE,
            Activity::Builds => BUILDS,
            Activity::Build { .. } => BUILD,
            Activity::Waits { .. } => BUILD_WAITING,
            Activity::Substitute { .. } => SUBSTITUTE,
            Activity::CopyPath { .. } => COPY_PATH,
            Activity::CopyPaths { .. } => COPY_PATHS,
            Activity::FileTransfer { .. } => FILE_TRANSFER,
        }
    }

    /// Returns how important it is, as Nix counts.
    pub fn level(&self) -> u64 {
        match self {
            Activity::Realise | Activity::Substitute { .. } => 0,
            Activity::Waits { .. } => 1,
            Activity::Builds
            | Activity::Build { .. }
            | Activity::CopyPath { .. }
            | Activity::CopyPaths { .. } => 3,
            Activity::FileTransfer { .. } => 4,
        }
    }

    /// Returns what people are told of it.
    pub fn text(&self) -> String {
        match self {
            Activity::Realise | Activity::Builds | Activity::Substitute { .. } => String::new(),
            Activity::Build { derivation, machine: "" } => format!("building '{derivation}'"),
            Activity::Build { derivation, machine } => {
                format!("building '{derivation}' on '{machine}'")
            }
            Activity::Waits { derivation, reason: "" } => format!("{WAITING}{derivation}'"),
            Activity::Waits { derivation, reason } => format!("{WAITING}{derivation}': {reason}"),
            Activity::CopyPath { path, from } => format!("copying path '{path}' from '{from}'"),
            Activity::CopyPaths { text } => (*text).to_owned(),
            Activity::FileTransfer { url } => format!("downloading '{url}'"),
        }
    }

    /// Returns its fields.
    pub fn fields(&self) -> Vec<Field> {
        let texts =
            |texts: &[&str]| texts.iter().map(|text| Field::Text((*text).to_owned())).collect();
        match self {
            Activity::Realise | Activity::Builds | Activity::CopyPaths { .. } => Vec::new(),
            Activity::Build { derivation, machine } => {
                let mut fields: Vec<Field> = texts(&[derivation, machine]);
                // the round, of so many
                fields.extend([1, 1].map(Field::Number));
                fields
            }
            // Nix itself has none here; with one a head need not take the text apart
            Activity::Waits { derivation, .. } => texts(&[derivation]),
            Activity::Substitute { path, from } => texts(&[path, from]),
            Activity::CopyPath { path, from } => texts(&[path, from, "local"]),
            Activity::FileTransfer { url } => texts(&[url]),
        }
    }

    /// Returns the line of JSON that says that it begins.
    pub fn json_start(&self, id: ActivityId, parent: ActivityId) -> String {
        let mut value = json!({
            "action": "start", "id": id.0, "level": self.level(), "type": self.kind(), "text": self.text(),
            "parent": parent.0,
        });
        let fields = self.fields();
        // as Nix, which writes no empty list here
        if let (Value::Object(object), false) = (&mut value, fields.is_empty()) {
            object.insert("fields".to_owned(), json_fields(&fields));
        }
        json_line(&value)
    }
}

/// How an activity has come further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivityResult<'a> {
    /// A line of a build's log.
    LogLine(&'a str),
    /// A line of the log of `post-build-hook`.
    HookLine(&'a str),
    /// The phase that a build is in.
    Phase(&'a str),
    /// How far it is: in bytes, paths or derivations.
    Progress {
        /// What is done.
        done: u64,
        /// What is to be done in all.
        expected: u64,
        /// What is being done.
        running: u64,
        /// What has failed.
        failed: u64,
    },
}

const LOG_LINE: u64 = 101;
const SET_PHASE: u64 = 104;
const PROGRESS: u64 = 105;
const HOOK_LINE: u64 = 107;

impl<'a> ActivityResult<'a> {
    /// Returns how far something has come, if that is told in a way that drover knows.
    pub fn read(kind: u64, fields: &'a [Field]) -> Option<ActivityResult<'a>> {
        Some(match (kind, fields) {
            (LOG_LINE, [Field::Text(line), ..]) => ActivityResult::LogLine(line),
            (HOOK_LINE, [Field::Text(line), ..]) => ActivityResult::HookLine(line),
            (SET_PHASE, [Field::Text(phase), ..]) => ActivityResult::Phase(phase),
            (PROGRESS, [Field::Number(done), Field::Number(expected), rest @ ..]) => {
                let count = |at: usize| match rest.get(at) {
                    Some(Field::Number(count)) => *count,
                    _ => 0,
                };
                let (running, failed) = (count(0), count(1));
                ActivityResult::Progress { done: *done, expected: *expected, running, failed }
            }
            _ => return None,
        })
    }

    /// Returns its kind, by the numbers of `ResultType`.
    pub fn kind(&self) -> u64 {
        match self {
            ActivityResult::LogLine(_) => LOG_LINE,
            ActivityResult::HookLine(_) => HOOK_LINE,
            ActivityResult::Phase(_) => SET_PHASE,
            ActivityResult::Progress { .. } => PROGRESS,
        }
    }

    /// Returns its fields.
    pub fn fields(&self) -> Vec<Field> {
        match self {
            ActivityResult::LogLine(text)
            | ActivityResult::HookLine(text)
            | ActivityResult::Phase(text) => vec![Field::Text((*text).to_owned())],
            ActivityResult::Progress { done, expected, running, failed } => {
                [*done, *expected, *running, *failed].map(Field::Number).to_vec()
            }
        }
    }

    /// Returns the line of JSON that says so of an activity.
    pub fn json(&self, id: ActivityId) -> String {
        let fields = json_fields(&self.fields());
        json_line(&json!({ "action": "result", "id": id.0, "type": self.kind(), "fields": fields }))
    }
}

/// Returns the line of JSON that says that an activity has ended.
pub fn json_stop(id: ActivityId) -> String {
    json_line(&json!({ "action": "stop", "id": id.0 }))
}

/// Returns the line of JSON that says something of a level to people.
pub fn json_message(level: u64, text: &str) -> String {
    json_line(&json!({ "action": "msg", "level": level, "msg": text }))
}

/// Returns the line of JSON that says in the log of a build itself which phase it is in.
pub fn json_phase(phase: &str) -> String {
    json_line(&json!({ "action": "setPhase", "phase": phase }))
}

fn json_line(value: &Value) -> String {
    format!("@nix {}", without_raw(&value.to_string()))
}

fn json_fields(fields: &[Field]) -> Value {
    let value = |field: &Field| match field {
        Field::Number(number) => json!(number),
        Field::Text(text) => json!(text),
    };
    fields.iter().map(value).collect()
}

fn text_at(fields: &[Field], at: usize) -> &str {
    match fields.get(at) {
        Some(Field::Text(text)) => text,
        _ => "",
    }
}

/// Returns the derivation and why it waits, if that is what a text says.
fn read_waiting(text: &str) -> Option<(&str, &str)> {
    let (derivation, reason) = text.strip_prefix(WAITING)?.split_once('\'')?;
    Some((derivation, reason.strip_prefix(": ").unwrap_or(reason)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const DRV: &str = "/nix/store/a.drv";

    #[rstest]
    #[case::realise(Activity::Realise)]
    #[case::builds(Activity::Builds)]
    #[case::build(Activity::Build { derivation: DRV, machine: "b1" })]
    #[case::build_here(Activity::Build { derivation: DRV, machine: "" })]
    #[case::waits(Activity::Waits { derivation: DRV, reason: "no slot is free" })]
    #[case::waits_for_reasons_of_its_own(Activity::Waits { derivation: DRV, reason: "" })]
    #[case::substitute(Activity::Substitute { path: "/nix/store/a", from: "https://c" })]
    #[case::copy(Activity::CopyPath { path: "/nix/store/a", from: "https://c" })]
    #[case::copies(Activity::CopyPaths { text: "copying 3 paths" })]
    #[case::file(Activity::FileTransfer { url: "https://c/nix-cache-info" })]
    fn what_is_told_is_read(#[case] activity: Activity<'_>) {
        let (text, fields) = (activity.text(), activity.fields());
        assert_eq!(Activity::read(activity.kind(), &text, &fields), Some(activity));
    }

    #[rstest]
    #[case::line(ActivityResult::LogLine("hello"))]
    #[case::hook(ActivityResult::HookLine("hello"))]
    #[case::phase(ActivityResult::Phase("buildPhase"))]
    #[case::progress(ActivityResult::Progress { done: 1, expected: 4, running: 2, failed: 1 })]
    fn results_that_are_told_are_read(#[case] result: ActivityResult<'_>) {
        assert_eq!(ActivityResult::read(result.kind(), &result.fields()), Some(result));
    }

    /// Nix names the derivation in the text alone, or nothing but files.
    #[rstest]
    #[case::text("waiting for a machine to build '/nix/store/a.drv'", DRV, "")]
    #[case::locks("waiting for lock on '/nix/store/a'", "", "waiting for lock on '/nix/store/a'")]
    fn what_nix_says_of_waiting(
        #[case] text: &str,
        #[case] derivation: &str,
        #[case] reason: &str,
    ) {
        let expected = Activity::Waits { derivation, reason };
        assert_eq!(Activity::read(BUILD_WAITING, text, &[]), Some(expected));
    }

    #[test]
    fn lines_are_those_of_nix() {
        let parse = |line: String| {
            let json = line.strip_prefix("@nix ").expect("a line for tools").to_owned();
            serde_json::from_str::<Value>(&json).expect("JSON")
        };
        let build = Activity::Build { derivation: DRV, machine: "b1" };
        let expected = json!({
            "action": "start", "id": 7, "level": 3, "type": 105, "parent": 0,
            "text": "building '/nix/store/a.drv' on 'b1'", "fields": ["/nix/store/a.drv", "b1", 1, 1],
        });
        assert_eq!(parse(build.json_start(ActivityId(7), ActivityId::NONE)), expected);
        let expected = json!({
            "action": "start", "id": 8, "level": 3, "type": 104, "parent": 7, "text": "",
        });
        assert_eq!(parse(Activity::Builds.json_start(ActivityId(8), ActivityId(7))), expected);
        let progress = ActivityResult::Progress { done: 1, expected: 2, running: 0, failed: 0 };
        let expected = json!({ "action": "result", "id": 7, "type": 105, "fields": [1, 2, 0, 0] });
        assert_eq!(parse(progress.json(ActivityId(7))), expected);
        assert_eq!(parse(json_stop(ActivityId(7))), json!({ "action": "stop", "id": 7 }));
    }

    #[test]
    fn what_is_not_utf_8_is_replaced_in_lines() {
        let raw = crate::raw_text::raw_text(b"a\xFFb");
        let line = ActivityResult::LogLine(&raw).json(ActivityId(1));
        assert!(line.contains("a\u{FFFD}b"), "{line}");
    }
}
