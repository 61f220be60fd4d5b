//! The names of the operations of `nix-store`.

/// The name of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Realise,
    Query,
    Add,
    AddFixed,
    PrintFixedPath,
    Delete,
    PrintEnv,
    ReadLog,
    DumpDb,
    LoadDb,
    RegisterValidity,
    CheckValidity,
    Gc,
    Dump,
    Restore,
    Export,
    Import,
    Init,
    Verify,
    VerifyPath,
    RepairPath,
    Optimise,
    Serve,
    GenerateBinaryCacheKey,
}

impl Name {
    /// Returns the operation that a flag names.
    pub(super) fn of_flag(flag: &str) -> Option<Name> {
        Some(match flag {
            "--realise" | "--realize" | "-r" => Name::Realise,
            "--query" | "-q" => Name::Query,
            "--add" | "-A" => Name::Add,
            "--add-fixed" => Name::AddFixed,
            "--print-fixed-path" => Name::PrintFixedPath,
            "--delete" => Name::Delete,
            "--print-env" => Name::PrintEnv,
            "--read-log" | "-l" => Name::ReadLog,
            "--dump-db" => Name::DumpDb,
            "--load-db" => Name::LoadDb,
            "--register-validity" => Name::RegisterValidity,
            "--check-validity" => Name::CheckValidity,
            "--gc" => Name::Gc,
            "--dump" => Name::Dump,
            "--restore" => Name::Restore,
            "--export" => Name::Export,
            "--import" => Name::Import,
            "--init" => Name::Init,
            "--verify" => Name::Verify,
            "--verify-path" => Name::VerifyPath,
            "--repair-path" => Name::RepairPath,
            "--optimise" | "--optimize" => Name::Optimise,
            "--serve" => Name::Serve,
            "--generate-binary-cache-key" => Name::GenerateBinaryCacheKey,
            _ => return None,
        })
    }
}
