//! Derivations: ATerm and JSON forms, output paths
