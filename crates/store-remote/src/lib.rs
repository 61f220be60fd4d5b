//! Stores and builders behind a socket, a child process or SSH
