//! Whether valid JSON can be stored, written as plainly as can be: the model that the fast check
//! is held against. Strings are decoded to UTF-16, numbers written out digit by digit.

/// Exponents beyond this are decided without writing out so many zeros.
const WRITTEN_OUT_MAX: i128 = 300_000;

/// Whether `text`, which must be valid JSON, can be stored.
pub(crate) fn storable(text: &str) -> bool {
    let chars: Vec<char> = text.chars().collect();
    let (mut depth, mut deepest, mut at) = (0_usize, 0, 0);
    while at < chars.len() {
        match chars[at] {
            '"' => {
                let end = string_end(&chars, at + 1);
                if !string_is_storable(&chars[at + 1..end]) {
                    return false;
                }
                at = end;
            }
            '{' | '[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            '}' | ']' => depth -= 1,
            '-' | '0'..='9' => {
                let in_number = |c: &char| matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E');
                let number: String = chars[at..].iter().take_while(|c| in_number(c)).collect();
                if !number_is_storable(&number) {
                    return false;
                }
                at += number.len() - 1;
            }
            _ => {}
        }
        at += 1;
    }
    deepest <= 128
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at
}

fn string_is_storable(chars: &[char]) -> bool {
    let mut units: Vec<u16> = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        if chars[at] != '\\' {
            units.extend(chars[at].encode_utf16(&mut [0; 2]).iter());
            at += 1;
        } else if chars[at + 1] == 'u' {
            let digits: String = chars[at + 2..at + 6].iter().collect();
            units.push(u16::from_str_radix(&digits, 16).expect("valid JSON"));
            at += 6;
        } else {
            // Any other escape is some character, none of them NUL.
            units.push(u16::from(b'x'));
            at += 2;
        }
    }
    !units.contains(&0) && String::from_utf16(&units).is_ok()
}

fn number_is_storable(number: &str) -> bool {
    let number = number.trim_start_matches('-').to_ascii_lowercase();
    let (mantissa, exponent) = number.split_once('e').unwrap_or((&number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let zero = mantissa.bytes().all(|b| matches!(b, b'0' | b'.'));
    let exponent: i128 = match exponent.parse() {
        Ok(exponent) => exponent,
        // More digits than fit: far beyond all limits.
        Err(_) => return false,
    };
    if exponent > WRITTEN_OUT_MAX {
        // The mantissas that tests write have far fewer digits than that.
        return zero && exponent < i128::from(i32::MAX / 2);
    }
    if exponent < -WRITTEN_OUT_MAX {
        return false;
    }
    let (mut whole, mut fraction) = (whole.to_owned(), fraction.to_owned());
    if exponent > 0 {
        let zeros = (exponent as usize).saturating_sub(fraction.len());
        fraction.push_str(&"0".repeat(zeros));
        whole.push_str(&fraction[..exponent as usize]);
        fraction = fraction[exponent as usize..].to_owned();
    } else {
        let places = exponent.unsigned_abs() as usize;
        whole = "0".repeat(places.saturating_sub(whole.len())) + &whole;
        let moved = whole.split_off(whole.len() - places);
        fraction = moved + &fraction;
    }
    whole.trim_start_matches('0').len() <= 131_072 && fraction.len() <= 16_383
}
