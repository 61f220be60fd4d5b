//! What holds for all texts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use drover_config::{
    Builders, Environment, LocalSystem, NixConf, Origin, Override, Settings, StoreReference, User,
    lint, parse_machines,
};
use proptest::prelude::*;

/// Text that looks like configuration now and then.
fn text() -> impl Strategy<Value = String> {
    let words: &[&str] = &[
        "include",
        "!include",
        "/etc/nix/nix.conf",
        "nix.conf",
        "=",
        " = ",
        "\n",
        " ",
        ";",
        "#",
        "@",
        "@/m",
        "cores",
        "extra-substituters",
        "substituters",
        "max-jobs",
        "auto",
        "9",
        "-",
        "1.5",
        "0",
        "K",
        "é",
        "ssh://",
        "u@",
        "[::1]",
        "%41",
        "%",
        "?a=b",
        "&",
        ":",
        "/",
        "x86_64-linux",
        ",",
        "AAAA",
        "local",
        "-o",
    ];
    let word =
        prop_oneof![3 => prop::sample::select(words).prop_map(str::to_owned), 1 => any::<String>()];
    prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn configuration_never_panics(file in text(), variable in text(), name in text(), value in text()) {
        let files = BTreeMap::from([(PathBuf::from("/etc/nix/nix.conf"), file)]);
        let environment = Environment { nix_config: Some(variable), ..Environment::default() };
        let system = LocalSystem::new("x86_64-linux", User::Root);
        if let Ok(conf) = NixConf::load(&environment, &files, &[Override::option(&name, &value)]) {
            prop_assert!(Settings::new(&conf, &environment, &system).is_ok());
        }
    }

    #[test]
    fn machines_never_panic(inline in text(), file in text()) {
        let files = BTreeMap::from([(PathBuf::from("/m"), file)]);
        for text in [inline.as_str(), "@/m"] {
            let builders = Builders {
                text,
                origin: &Origin::Default,
                default_system: "x86_64-linux",
                dir: "/".as_ref(),
            };
            let Ok(machines) = parse_machines(&builders, &files) else { continue };
            lint(&machines.machines);
            for machine in machines.machines {
                let store = machine.store_uri_with_params().to_string();
                prop_assert!(store.parse::<StoreReference>().is_ok(), "{}", store);
            }
        }
    }

    #[test]
    fn stores_read_as_they_are_shown(text in text()) {
        if let Ok(store) = text.parse::<StoreReference>() {
            prop_assert_eq!(store.to_string().parse(), Ok(store));
        }
    }
}
