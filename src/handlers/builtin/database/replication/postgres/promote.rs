//! `promote` on PostgreSQL.

use serde_json::Value;

use super::super::Ends;
use super::super::promote::Params;
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::Run;

const NOT_YET: &str = "it is not built for PostgreSQL yet";

pub(in super::super) fn check(_params: &Params, _ends: &Ends<'_>) -> Result<(), String> {
    Err(NOT_YET.to_owned())
}

pub(in super::super) async fn plan(_: &Params, _: &Run, _: &Ends<'_>) -> Result<Vec<Value>, Failure> {
    Err(Failure::permanent("refused", NOT_YET))
}

pub(in super::super) async fn execute(_: &Params, _: &Run, _: &Ends<'_>) -> Result<Done, Failure> {
    Err(Failure::permanent("refused", NOT_YET))
}

pub(in super::super) async fn undo(_: &Params, _: &Run, _: &Ends<'_>) -> Result<(), Failure> {
    Ok(())
}
