//! What the sandbox looks like from inside, and what can be tried against it. For the tests of this
//! crate and of those above it; never installed.
#![allow(clippy::print_stdout, reason = "what it finds goes to stdout")]

mod attack;
mod calls;
mod machine;
mod report;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["launcher"] => drover_sandbox::run_launcher_for(own),
        ["report"] => {
            println!("{}", report::report());
            Ok(())
        }
        ["calls"] => {
            println!("{}", report::calls());
            Ok(())
        }
        ["caller", launcher, plan, files @ ..] => attack::call(launcher, plan, files),
        ["listen", name] => attack::listen(name),
        ["hand-over", name, file] => attack::hand_over(name, file),
        ["give", name, file] => attack::give(name, file),
        ["fetch", name] => attack::fetch(name),
        ["connect", name] => attack::reach(name),
        ["set-id", folder] => attack::make_set_id(folder),
        ["trace-parent"] => attack::trace_parent(),
        #[cfg(target_arch = "x86_64")]
        ["calls-x32"] => {
            println!("{}", report::calls_x32());
            Ok(())
        }
        ["escape", seconds] => attack::escape(seconds),
        ["stubborn"] => attack::stubborn(),
        ["bomb"] => attack::bomb(),
        ["signal", pid] => attack::signal(pid),
        _ => Err(std::io::Error::other("see the source for what can be asked of this program")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::from(u8::try_from(error.raw_os_error().unwrap_or(99)).unwrap_or(99))
        }
    }
}

/// What the launcher does itself.
fn own(wanted: &[u8]) -> u8 {
    match wanted {
        b"report" => println!("{}", report::report()),
        // as what is waited for in other threads
        b"threads" => {
            let threads = (1..=3).map(|it| std::thread::spawn(move || it));
            let sum: u8 = threads.map(|it| it.join().unwrap_or_default()).sum();
            return sum;
        }
        b"panic" => panic!("as it was told"),
        _ => return 98,
    }
    0
}
