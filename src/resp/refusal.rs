//! What an error of Redis means, and what mends it.
//!
//! An error is a line whose first word is its code: `-MISCONF Redis is configured to save …`. One
//! that a script ran into comes wrapped by some versions:
//! `ERR Error running script (call to f_…): @user_script:12: -MISCONF …`. So the code is looked for
//! wherever it stands as a word of its own, the first that is known.

/// The kinds of errors that lead to different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It wants a password, and there was none.
    NoAuth,
    /// The user or the password is wrong.
    WrongPass,
    /// The user may not do that (ACL).
    NoPerm,
    /// A key holds something else than what the command is for.
    WrongType,
    /// `maxmemory` is reached.
    OutOfMemory,
    /// It is a replica.
    ReadOnly,
    /// It is still reading its files.
    Loading,
    /// It can't write its files, and refuses writes therefore.
    Misconf,
    /// The script is not known there: load it.
    NoScript,
    /// A script or function has been running for long.
    Busy,
    /// It is a replica that has lost its primary.
    MasterDown,
    /// It is a node of a Cluster some of whose slots nobody serves.
    ClusterDown,
    /// It is a node of a Cluster, and the key is on another one; also CROSSSLOT.
    Moved,
    /// It is a node of a Cluster, and the key is on its way to another one.
    Ask,
    /// It is a node of a Cluster, and the keys are on their way to another one.
    TryAgain,
    /// There is no such stream or consumer group.
    NoGroup,
    /// The consumer group is there already.
    BusyGroup,
    /// Too few replicas (`min-replicas-to-write`).
    NoReplicas,
    /// Protected mode (DENIED): it has no password and speaks to its own machine only.
    ProtectedMode,
    /// `maxclients` is reached.
    MaxClients,
    /// Anything else.
    Other,
}

/// The codes by which Redis names them.
const CODES: &[(&str, Cause)] = &[
    ("NOAUTH", Cause::NoAuth),
    ("WRONGPASS", Cause::WrongPass),
    ("NOPERM", Cause::NoPerm),
    ("WRONGTYPE", Cause::WrongType),
    ("OOM", Cause::OutOfMemory),
    ("READONLY", Cause::ReadOnly),
    ("LOADING", Cause::Loading),
    ("MISCONF", Cause::Misconf),
    ("NOSCRIPT", Cause::NoScript),
    ("BUSY", Cause::Busy),
    ("MASTERDOWN", Cause::MasterDown),
    ("CLUSTERDOWN", Cause::ClusterDown),
    ("MOVED", Cause::Moved),
    ("CROSSSLOT", Cause::Moved),
    ("ASK", Cause::Ask),
    ("TRYAGAIN", Cause::TryAgain),
    ("NOGROUP", Cause::NoGroup),
    ("BUSYGROUP", Cause::BusyGroup),
    ("NOREPLICAS", Cause::NoReplicas),
    ("DENIED", Cause::ProtectedMode),
];

/// What has no code, or had none in older versions: lower-case parts of the text.
const PHRASES: &[(&str, Cause)] = &[
    ("max number of clients", Cause::MaxClients),
    ("invalid password", Cause::WrongPass),
    ("operation not permitted", Cause::NoAuth),
    ("unauthenticated", Cause::NoAuth),
];

/// What a script is told instead of NOPERM.
const SCRIPT_NOPERM: [&str; 2] = [
    "The user executing the script can't",
    // Redis since 7.2, and Valkey.
    "ACL failure in script",
];

impl Cause {
    /// The cause of an error's text (without the `-`).
    pub fn of_text(text: &str) -> Self {
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == '\'' || c == '`' || c == '"';
        let coded = text
            .split(|c| !word(c))
            .filter(|word| word.len() >= 3 && word.bytes().all(|b| b.is_ascii_uppercase()))
            .find_map(|word| CODES.iter().find(|(code, _)| *code == word));
        let phrased = || {
            let text = text.strip_prefix("ERR ").unwrap_or(text);
            PHRASES.iter().find(|(phrase, _)| text.starts_with(phrase))
        };
        let protocol = || {
            let text = text.strip_prefix("ERR Protocol error: ")?;
            PHRASES.iter().find(|(phrase, _)| text.starts_with(phrase))
        };
        match coded.or_else(phrased).or_else(protocol) {
            Some(&(_, cause)) => cause,
            None if SCRIPT_NOPERM.iter().any(|told| text.contains(told)) => Self::NoPerm,
            None => Self::Other,
        }
    }

    /// Whether it is worth waiting and trying again: it passes, by itself or once somebody has
    /// mended it, and nothing here must be set otherwise.
    pub fn is_passing(self) -> bool {
        matches!(
            self,
            Self::Loading
                | Self::OutOfMemory
                | Self::Misconf
                | Self::ReadOnly
                | Self::Busy
                | Self::TryAgain
                | Self::ClusterDown
                | Self::MasterDown
                | Self::NoReplicas
        )
    }

    /// What it is and what mends it.
    fn remedy(self) -> &'static str {
        match self {
            Self::NoAuth => "Redis wants a password: give it in the address, redis://:password@…",
            Self::WrongPass => {
                "Redis does not take this user and password: set them right in the address \
                 (%-encoded there)"
            }
            Self::NoPerm => {
                "the Redis user may not do this: widen its rules with ACL SETUSER (commands, keys \
                 and channels)"
            }
            Self::WrongType => {
                "a name in Redis holds something that is not ringcast's: choose another \
                 --key-prefix or remove it"
            }
            Self::OutOfMemory => {
                "Redis is full: raise its maxmemory or let it hold less; it refuses writes until \
                 then"
            }
            Self::ReadOnly => {
                "this Redis is a replica: give the address of the primary, or wait until this one \
                 is promoted"
            }
            Self::Loading => "Redis is still reading its files: it will be there when it has",
            Self::Misconf => {
                "Redis can't write its disk: free or mend what it saves to (its log says more); \
                 it refuses writes until then"
            }
            Self::NoScript => "Redis does not have the script: it is loaded again",
            Self::Busy => "Redis is busy with a script: wait, or end it with SCRIPT KILL",
            Self::MasterDown => {
                "this Redis is a replica that has lost its primary: bring that back, or give \
                 another address"
            }
            Self::ClusterDown => {
                "the Redis Cluster serves only some of its slots: bring its nodes back"
            }
            Self::Moved | Self::Ask => {
                "this Redis is a node of a Redis Cluster, which this build does not support: give \
                 the address of a Redis that is none"
            }
            Self::TryAgain => "the Redis Cluster is moving keys: try again",
            Self::NoGroup => "the stream or its consumer group is gone: it is made again",
            Self::BusyGroup => "the consumer group is there already, which is as it should be",
            Self::NoReplicas => {
                "Redis has too few replicas (min-replicas-to-write): bring them back; it refuses \
                 writes until then"
            }
            Self::ProtectedMode => {
                "Redis is in protected mode and has no password: set one (requirepass), or bind \
                 it to a safe network and turn protected-mode off"
            }
            Self::MaxClients => {
                "Redis has as many clients as it takes: raise its maxclients or end some"
            }
            Self::Other => "Redis refuses",
        }
    }
}

/// An error that Redis answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind it is.
    pub cause: Cause,
    /// The text, without the `-`.
    pub text: String,
}

impl Refusal {
    /// The refusal of that text.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            cause: Cause::of_text(&text),
            text,
        }
    }

    /// One line for the log: cause, remedy, and how Redis put it.
    pub fn explain(&self) -> String {
        let text = self.text.escape_debug().take(TEXT_CHARS_MAX);
        format!("{} ({})", self.cause.remedy(), text.collect::<String>())
    }
}

/// Characters of Redis's text in a line for the log.
const TEXT_CHARS_MAX: usize = 200;

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.explain())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_found_wherever_the_code_stands() {
        use Cause::*;
        for (text, want) in [
            ("NOAUTH Authentication required.", NoAuth),
            (
                "WRONGPASS invalid username-password pair or user is disabled.",
                WrongPass,
            ),
            ("ERR invalid password", WrongPass),
            ("ERR operation not permitted", NoAuth),
            ("ERR Protocol error: unauthenticated bulk length", NoAuth),
            (
                "NOPERM this user has no permissions to run the 'eval' command",
                NoPerm,
            ),
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                WrongType,
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                OutOfMemory,
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'. script: \
                 4ca2, on @user_script:12.",
                OutOfMemory,
            ),
            (
                "ERR Error running script (call to f_4ca2): @user_script:1: -OOM command not \
                 allowed when used memory > 'maxmemory'.",
                OutOfMemory,
            ),
            (
                "ERR Error running script (call to f_4ca2): @user_script:12: @user_script: 12: \
                 -MISCONF Redis is configured to save RDB snapshots, but",
                Misconf,
            ),
            (
                "@user_script: 12: -MISCONF Errors writing to the AOF file",
                Misconf,
            ),
            (
                "READONLY You can't write against a read only replica.",
                ReadOnly,
            ),
            ("LOADING Redis is loading the dataset in memory", Loading),
            ("NOSCRIPT No matching script. Please use EVAL.", NoScript),
            ("BUSY Redis is busy running a script.", Busy),
            ("MASTERDOWN Link with MASTER is down", MasterDown),
            ("CLUSTERDOWN Hash slot not served", ClusterDown),
            ("MOVED 3999 127.0.0.1:6381", Moved),
            (
                "CROSSSLOT Keys in request don't hash to the same slot",
                Moved,
            ),
            ("ASK 3999 127.0.0.1:6381", Ask),
            (
                "TRYAGAIN Multiple keys request during rehashing of slot",
                TryAgain,
            ),
            ("NOGROUP No such key 'x' or consumer group 'g'", NoGroup),
            ("BUSYGROUP Consumer Group name already exists", BusyGroup),
            ("NOREPLICAS Not enough good replicas to write.", NoReplicas),
            (
                "DENIED Redis is running in protected mode because",
                ProtectedMode,
            ),
            ("ERR max number of clients reached", MaxClients),
            (
                "ERR max number of clients + cluster connections reached",
                MaxClients,
            ),
            (
                "EXECABORT Transaction discarded because of: OOM command not allowed",
                OutOfMemory,
            ),
            (
                "ERR The user executing the script can't run this command or subcommand script: \
                 ff96, on @user_script:1.",
                NoPerm,
            ),
            (
                "ERR ACL failure in script: User app has no permissions to run the 'xadd' command",
                NoPerm,
            ),
            (
                "ERR Error running script (call to f_ff96): @user_script:1: @user_script: 1: The \
                 user executing the script can't run this command or subcommand",
                NoPerm,
            ),
            // What was sent and is quoted, longer words, and other words.
            (
                "ERR unknown command 'LOADING', with args beginning with: ",
                Other,
            ),
            ("ERR unknown command `LOADING`", Other),
            ("BUSYKEY Target key name already exists.", Other),
            ("ERR no such task", Other),
            ("ERR the OOM_SCORE of MY_OOM", Other),
            ("ERR value is not an integer or out of range", Other),
            ("", Other),
        ] {
            assert_eq!(Cause::of_text(text), want, "{text}");
        }
    }

    #[test]
    fn what_passes() {
        use Cause::*;
        let all = CODES.iter().chain(PHRASES).map(|&(_, cause)| cause);
        let passing: Vec<_> = all.filter(|cause| cause.is_passing()).collect();
        assert_eq!(
            passing,
            [
                OutOfMemory,
                ReadOnly,
                Loading,
                Misconf,
                Busy,
                MasterDown,
                ClusterDown,
                TryAgain,
                NoReplicas
            ]
        );
        assert!(!Other.is_passing());
    }

    #[test]
    fn an_explanation_is_one_line() {
        let line = Refusal::new(format!("MISCONF a\r\n{}", "é".repeat(1000))).explain();
        assert!(line.starts_with("Redis can't write its disk: "), "{line}");
        assert!(
            line.contains(r"(MISCONF a\r\né") && line.len() < 700,
            "{line}"
        );
        for &(code, _) in CODES {
            let line = Refusal::new(code).explain();
            assert!(
                line.contains(code) && !line.contains('\n') && !line.contains("  "),
                "{line}"
            );
        }
    }
}
