//! The codes a client sees: `error` frames and WebSocket close codes (PROTOCOL 3).

/// The `code` of an `error` frame, and of the error body of an HTTP answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Not JSON, or JSON that could not be stored later (NUL, lone surrogates, too deep, …).
    BadJson,
    /// JSON, but not a frame: a member is missing or has the wrong type.
    BadFrame,
    /// The frame's `type` is not known.
    UnknownType,
    /// The room's name is empty, too long or has control characters.
    BadRoom,
    /// The connection has not joined the room.
    NotJoined,
    /// The message is over a limit.
    TooLarge,
    /// Too many messages a second.
    RateLimited,
    /// No token, or not a good one.
    Unauthorized,
    /// The token does not allow this.
    Forbidden,
    /// The connection, or the server, has as many rooms as it may have.
    TooManyRooms,
    /// The server has more to do than it can; try again later.
    Overloaded,
    /// What is needed for the answer is away (disk full, Redis gone); try again later.
    Unavailable,
    /// A fault of the server's own.
    Internal,
}

impl ErrorCode {
    /// The code as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::BadFrame => "bad_frame",
            Self::UnknownType => "unknown_type",
            Self::BadRoom => "bad_room",
            Self::NotJoined => "not_joined",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::TooManyRooms => "too_many_rooms",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

/// A WebSocket close code (RFC 6455, 7.4; the 4000s are PROTOCOL 3's).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The server drains.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke RFC 6455.
    pub const PROTOCOL: Self = Self(1002);
    /// A kind of data that is not taken here (binary on `/ws`).
    pub const UNSUPPORTED: Self = Self(1003);
    /// Text that is not UTF-8.
    pub const BAD_UTF8: Self = Self(1007);
    /// Against a limit or rule that has no code of its own.
    pub const POLICY: Self = Self(1008);
    /// The message is too big.
    pub const TOO_BIG: Self = Self(1009);
    /// A fault of the server's own.
    pub const INTERNAL: Self = Self(1011);
    /// The server starts anew.
    pub const RESTART: Self = Self(1012);
    /// Too much to do; try again later.
    pub const TRY_LATER: Self = Self(1013);
    /// The token is missing or has expired.
    pub const UNAUTHORIZED: Self = Self(4001);
    /// The client reads too slowly.
    pub const SLOW_CONSUMER: Self = Self(4002);
    /// An operator closed the connection.
    pub const KICKED: Self = Self(4003);
}
