//! Errors in one line.

use std::error::Error;

/// Returns an error with its causes, the nearest first, as `what: why: why`.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Because(&'static str, Option<Box<Because>>);

    impl fmt::Display for Because {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Because {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|error| error as &dyn Error)
        }
    }

    #[test]
    fn all_causes_are_told() {
        let disk = Because("the disk is full", None);
        let write = Because("cannot write 'x'", Some(disk.into()));
        let add = Because("cannot add 'y'", Some(write.into()));
        assert_eq!(with_causes(&add), "cannot add 'y': cannot write 'x': the disk is full");
    }
}
