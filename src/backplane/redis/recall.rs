//! Reading the stream for those who come back, once for all who wait.
