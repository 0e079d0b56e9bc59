//! The highest rate that holds: doubling while it does, halving where the first does not, then
//! bisection between the last that held and the first that did not. Knows nothing of what is rated.

/// The search ends when the two bounds are so near.
const NEAR: f64 = 1.08;
/// No more tries than this.
const TRIES_MAX: usize = 24;
/// The lowest rate that is tried: so much of the first.
const LOWEST: f64 = 1.0 / 16.0;

/// The highest rate that held, near `first` upward or downward; `None`: none did.
pub(crate) fn highest(
    first: f64,
    mut holds: impl FnMut(f64) -> Result<bool, String>,
) -> Result<Option<f64>, String> {
    let (mut held, mut failed): (Option<f64>, Option<f64>) = (None, None);
    for _ in 0..TRIES_MAX {
        let rate = match (held, failed) {
            (None, None) => first,
            (Some(held), None) => held * 2.0,
            (None, Some(failed)) if failed / 2.0 < first * LOWEST => return Ok(None),
            (None, Some(failed)) => failed / 2.0,
            (Some(held), Some(failed)) if failed / held <= NEAR => break,
            (Some(held), Some(failed)) => (held + failed) / 2.0,
        };
        let bound = match holds(rate)? {
            true => &mut held,
            false => &mut failed,
        };
        *bound = Some(rate);
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_near_the_limit() {
        for limit in [100.0, 900.0, 1000.0, 33_333.0, 1e6] {
            let mut tries = 0;
            let found = highest(1000.0, |rate| {
                tries += 1;
                Ok(rate <= limit)
            });
            let found = found.unwrap().unwrap();
            assert!(found <= limit && found * NEAR >= limit, "{limit}: {found}");
            assert!(tries < TRIES_MAX, "{limit}: {tries}");
        }
    }

    #[test]
    fn none_may_hold_and_an_error_ends_it() {
        assert_eq!(highest(1000.0, |_| Ok(false)), Ok(None));
        assert!(highest(1000.0, |_| Err("x".into())).is_err());
    }
}
