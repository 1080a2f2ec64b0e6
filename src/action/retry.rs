//! Retry arithmetic: how long to wait before the next try.

use super::RetryPolicy;

/// Milliseconds to wait after `tries_used` failed tries: exponential, capped, with jitter.
///
/// `jitter` is a fraction from 0 to 1. The wait lies between half of the full step and the full step
/// ("equal jitter"), so that many actions that failed together do not come back together.
#[must_use]
pub fn backoff_ms(policy: &RetryPolicy, tries_used: u32, jitter: f64) -> u64 {
    let doublings = tries_used.saturating_sub(1).min(63);
    let step = policy
        .backoff_ms
        .checked_shl(doublings)
        .filter(|step| step >> doublings == policy.backoff_ms)
        .unwrap_or(u64::MAX)
        .min(policy.backoff_max_ms);
    let half = step / 2;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a wait need not be exact; the fraction is clamped to 0..=1 and so never negative"
    )]
    let spread = ((step - half) as f64 * jitter.clamp(0.0, 1.0)) as u64;
    half.saturating_add(spread).min(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy { attempts: 9, backoff_ms: 1_000, backoff_max_ms: 60_000 };

    #[test]
    fn wait_doubles_until_its_cap() {
        let full: Vec<u64> = (1..=8).map(|tries| backoff_ms(&POLICY, tries, 1.0)).collect();
        assert_eq!(full, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn jitter_stays_within_half_and_full_step() {
        assert_eq!(backoff_ms(&POLICY, 1, 0.0), 500);
        assert_eq!(backoff_ms(&POLICY, 1, 7.0), 1_000);
        for tries in [1, 5, 64, u32::MAX] {
            let wait = backoff_ms(&POLICY, tries, 0.5);
            assert!((500..=60_000).contains(&wait), "{wait}");
        }
    }

    #[test]
    fn huge_backoff_never_wraps() {
        let policy = RetryPolicy { attempts: 99, backoff_ms: u64::MAX, backoff_max_ms: u64::MAX };
        assert_eq!(backoff_ms(&policy, 50, 1.0), u64::MAX);
    }
}
