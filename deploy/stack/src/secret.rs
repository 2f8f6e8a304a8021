//! Passwords of parts: random, made here, written nowhere but where the part needs them.

use crate::error::StackError;

/// 128 random bits as 32 hexadecimal digits, which no quoting rule of any part touches.
pub(crate) fn password(part: &str) -> Result<String, StackError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        StackError::new(part, "the system gives no random bytes").caused_by(error)
    })?;
    Ok(hex::encode(bytes))
}
