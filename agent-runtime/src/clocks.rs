//! The five clocks of a model call.

use std::time::Duration;

/// The limits of each wait of a call. They stop while we ourselves do not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// Until there is a connection. 10 s.
    pub connect: Duration,
    /// From the request sent to the response's headers. 120 s.
    pub first_byte: Duration,
    /// Since the last byte of any kind, pings too. 60 s.
    pub idle: Duration,
    /// Since the call's start or the last delta of text, reasoning, signature or arguments. 300 s.
    pub progress: Duration,
    /// The whole call. 3,600 s.
    pub cap: Duration,
}

impl Default for Clocks {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(120),
            idle: Duration::from_secs(60),
            progress: Duration::from_secs(300),
            cap: Duration::from_secs(3600),
        }
    }
}
