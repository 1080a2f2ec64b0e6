//! What a replica lacks of its primary, and the wait until that is nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::promote::Params;
use super::{Follows, Server};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::run::Run;

/// How far a replica has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Caught {
    /// What it lacked when the wait was over; none: it cannot be known.
    pub(super) lag_bytes: Option<u64>,
}

/// How a wait ended.
enum End {
    Nothing,
    /// It lacks something, or that cannot be known; with a reason it will not lack less.
    Lacks(Option<u64>, String),
}

/// Waits until the replica lacks nothing of what its primary has written, or as much as is allowed. Without a primary that
/// answers it waits for what the replica has received.
///
/// # Errors
///
/// It lacks more, or that cannot be known, and `allow_data_loss` is not given.
pub(super) async fn catch_up(
    params: &Params,
    run: &Run,
    primary: Option<&Server<'_>>,
    replica: &Server<'_>,
) -> Result<Caught, Failure> {
    let limit = Duration::from_secs(params.wait_s.into());
    let mut last = End::Lacks(None, "it did not catch up in time".to_owned());
    run.wait_for(limit, async || {
        last = look(primary, replica).await?;
        // What has given up does not catch up, however long it is waited for.
        let goes_on = matches!(&last, End::Lacks(_, why) if why.is_empty());
        Ok((!goes_on).then_some(()))
    })
    .await?;
    let (lag_bytes, why) = match last {
        End::Nothing => return Ok(Caught { lag_bytes: Some(0) }),
        End::Lacks(lag, why) => {
            (lag, if why.is_empty() { "it did not catch up in time".to_owned() } else { why })
        }
    };
    if lag_bytes.is_some_and(|lag| lag <= params.max_lag_bytes) {
        return Ok(Caught { lag_bytes });
    }
    let (code, lacks) = match lag_bytes {
        Some(lag) => ("lag", format!("lacks about {lag} bytes of its primary's log")),
        None => ("lag_unknown", "may lack something of its primary".to_owned()),
    };
    let told = format!("{} {lacks}: {why}", replica.name());
    if params.allow_data_loss {
        run.warn(told);
        return Ok(Caught { lag_bytes });
    }
    Err(Failure::permanent(code, told).with("hint", "allow_data_loss = true promotes it nevertheless"))
}

async fn look(primary: Option<&Server<'_>>, replica: &Server<'_>) -> Result<End, Failure> {
    let Some(follows) = replica.follows().await? else {
        return Ok(End::Lacks(None, "it follows nobody any more".to_owned()));
    };
    if let Some(broken) = follows.broken(replica.name()) {
        let lag = match primary {
            Some(primary) => lag_bytes(primary, &follows).await?,
            None => None,
        };
        return Ok(End::Lacks(lag, broken.message().to_owned()));
    }
    let Some(primary) = primary else {
        let received = follows.text("Gtid_IO_Pos");
        if !reaches(replica, received).await? {
            return Ok(End::Lacks(None, String::new()));
        }
        return Ok(End::Lacks(
            None,
            "its primary does not answer; what it has received it has applied".to_owned(),
        ));
    };
    let written = primary.written().await?;
    // What was written meanwhile counts as well.
    if reaches(replica, &written).await? && primary.written().await? == written {
        return Ok(End::Nothing);
    }
    Ok(End::Lacks(lag_bytes(primary, &follows).await?, String::new()))
}

/// Whether it has applied everything up to there; waits a little for it.
pub(super) async fn reaches(replica: &Server<'_>, position: &str) -> Result<bool, Failure> {
    let what = format!("cannot look how far {} is", replica.name());
    let row: Option<(Option<i64>,)> =
        replica.session.first(&what, "SELECT MASTER_GTID_WAIT(?, 0.2)", (position,)).await?;
    Ok(row == Some((Some(0),)))
}

/// How many bytes of the primary's log the replica has not applied, if it still has all of that log.
async fn lag_bytes(primary: &Server<'_>, follows: &Follows) -> Result<Option<u64>, Failure> {
    let what = format!("cannot look at the log of {}", primary.name());
    let logs = primary.session.named(&what, "SHOW BINARY LOGS").await?;
    let sizes = logs.iter().map(|log| {
        let of = |column: &str| log.get(column).map_or("", String::as_str);
        (of("Log_name"), of("File_size").parse::<u64>().unwrap_or(0))
    });
    let applied = follows.text("Relay_Master_Log_File");
    let mut rest = sizes.skip_while(|(name, _)| *name != applied).peekable();
    if rest.peek().is_none() {
        return Ok(None);
    }
    let total: u64 = rest.map(|(_, size)| size).sum();
    Ok(Some(total.saturating_sub(follows.number("Exec_Master_Log_Pos").unwrap_or(0))))
}
