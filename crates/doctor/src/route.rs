//! How `ssh` gets to a host, in its own words (`ssh -G`).

/// How `ssh` gets to a host once the user's configuration is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The host that is connected to (`HostName`).
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user there.
    pub user: String,
    /// What stands between: a jump host, or a command that connects.
    pub via: Option<String>,
    /// What `ssh` does with a host key that isn't the known one.
    pub checking: KeyChecking,
}

/// What `ssh` does with a host key that isn't the known one (`StrictHostKeyChecking`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyChecking {
    /// It refuses it, as nobody can be asked.
    #[default]
    Strict,
    /// It takes it where none is known, and notes it (`accept-new`).
    AcceptNew,
    /// It takes any (`no`, `off`).
    Off,
}

impl KeyChecking {
    fn parse(value: &str) -> KeyChecking {
        match value {
            "accept-new" => KeyChecking::AcceptNew,
            "false" | "no" | "off" => KeyChecking::Off,
            _ => KeyChecking::Strict,
        }
    }

    /// Returns it as it's written in ssh's configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            KeyChecking::Strict => "yes",
            KeyChecking::AcceptNew => "accept-new",
            KeyChecking::Off => "no",
        }
    }
}

impl Route {
    /// Reads what `ssh -G HOST` prints: a keyword and its value on each line. Returns nothing where
    /// there is no host name among it.
    pub fn parse(printed: &str) -> Option<Route> {
        let value = |keyword: &str| {
            printed.lines().find_map(|line| {
                let (word, value) = line.split_once(' ')?;
                word.eq_ignore_ascii_case(keyword).then(|| value.trim().to_owned())
            })
        };
        let set = |keyword| value(keyword).filter(|value: &String| value != "none");
        let jump = set("proxyjump").map(|hosts| format!("ProxyJump {hosts}"));
        let command = || set("proxycommand").map(|command| format!("ProxyCommand {command}"));
        Some(Route {
            host: value("hostname")?,
            port: value("port").and_then(|port| port.parse().ok()).unwrap_or(22),
            user: value("user").unwrap_or_default(),
            via: jump.or_else(command),
            checking: set("stricthostkeychecking")
                .map_or(KeyChecking::Strict, |value| KeyChecking::parse(&value)),
        })
    }
}

/// How a machine is called on the command line of `ssh`, for remedies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// `host` or `user@host`.
    pub destination: String,
    /// `-p 2222`, `-i /key`, and their like.
    pub arguments: Vec<String>,
}

impl Target {
    /// Returns a command line that runs something there.
    pub fn ssh(&self, command: &str) -> String {
        let mut words = vec!["ssh".to_owned()];
        words.extend(self.arguments.iter().cloned());
        words.push(self.destination.clone());
        if !command.is_empty() {
            words.push(command.to_owned());
        }
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("host b1\nuser root\nhostname 10.0.0.2\nport 2222\n", Some(("10.0.0.2", 2222, "root", None)))]
    #[case::jump(
        "user a\nhostname b1\nport 22\nproxyjump gate,other\nproxycommand none\n",
        Some(("b1", 22, "a", Some("ProxyJump gate,other"))),
    )]
    #[case::command(
        "hostname b1\nproxycommand nc %h %p\n",
        Some(("b1", 22, "", Some("ProxyCommand nc %h %p"))),
    )]
    #[case::nothing("usage: ssh\n", None)]
    fn reads_what_ssh_prints(
        #[case] printed: &str,
        #[case] expected: Option<(&str, u16, &str, Option<&str>)>,
    ) {
        let route = Route::parse(printed);
        let seen = route
            .as_ref()
            .map(|route| (&*route.host, route.port, &*route.user, route.via.as_deref()));
        assert_eq!(seen, expected);
    }

    #[test]
    fn remedies_name_port_and_key() {
        let arguments = vec!["-p".to_owned(), "2222".to_owned()];
        let target = Target { destination: "alice@b1".to_owned(), arguments };
        assert_eq!(target.ssh("true"), "ssh -p 2222 alice@b1 true");
    }

    #[rstest]
    #[case::asks("ask", KeyChecking::Strict)]
    #[case::new("accept-new", KeyChecking::AcceptNew)]
    #[case::off("false", KeyChecking::Off)]
    fn reads_what_is_done_with_other_keys(#[case] value: &str, #[case] expected: KeyChecking) {
        let route = Route::parse(&format!("hostname b1\nstricthostkeychecking {value}\n"));
        assert_eq!(route.unwrap().checking, expected);
    }
}
