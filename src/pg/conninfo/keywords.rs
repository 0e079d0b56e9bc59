//! Connection strings as `name=value` pairs, set apart by blanks; a value with blanks stands in
//! single quotes, in which, as without them, `\` takes what follows as it is.

use super::FORM;

/// Parameters and values, in order.
///
/// # Errors
/// One line, without a value.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut name = String::new();
        while let Some(c) = chars.next_if(|&c| c != '=' && !c.is_whitespace()) {
            name.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next_if_eq(&'=').is_none() {
            return Err(format!("something in it is no name=value; write {FORM}"));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        pairs.push((name, value(&mut chars)?));
    }
}

fn value(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, String> {
    let mut value = String::new();
    let is_quoted = chars.next_if_eq(&'\'').is_some();
    loop {
        let c = match chars.next() {
            Some('\\') => chars.next().ok_or("a \\ stands at its end")?,
            Some('\'') if is_quoted => return Ok(value),
            Some(c) if c.is_whitespace() && !is_quoted => return Ok(value),
            Some(c) => c,
            None if is_quoted => return Err("a quote in it is not closed".into()),
            None => return Ok(value),
        };
        if c == '\0' {
            return Err("a NUL stands in it".into());
        }
        value.push(c);
    }
}
