//! The 19 action types of the user's document, with what holds for each unless configured otherwise.
//!
//! Recovery defaults are for a program that knows nothing of `actiond`: what may be repeated without
//! harm is rerun; what may have half happened is held for a person.

use super::Recovery;

/// One action type of the user's document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionType {
    /// The document's word, as on the wire.
    pub name: &'static str,
    /// What it does, for people.
    pub operation: &'static str,
    /// Whether only one action at a time may run on the resource.
    pub exclusive: bool,
    /// What recovery does with an interrupted attempt by default.
    pub recovery: Recovery,
}

const fn exclusive(name: &'static str, operation: &'static str, recovery: Recovery) -> ActionType {
    ActionType { name, operation, exclusive: true, recovery }
}

/// All 19, in the document's order.
pub const ACTION_TYPES: [ActionType; 19] = [
    exclusive("deploy", "stack deployment", Recovery::Hold),
    exclusive("restart", "restart of a server, a stack or a service", Recovery::Rerun),
    exclusive("database_create", "create a database", Recovery::Hold),
    exclusive("database_delete", "delete a database", Recovery::Hold),
    exclusive("database_user_create", "create a database user", Recovery::Hold),
    exclusive("database_user_delete", "delete a database user", Recovery::Rerun),
    exclusive("stack_reboot", "reboot of a stack's servers", Recovery::Hold),
    exclusive("clear_caches", "clear all application caches of a stack", Recovery::Rerun),
    exclusive("maintenance_mode", "enable or disable maintenance mode for a stack", Recovery::Rerun),
    exclusive("promote_slave_db", "promote a replica database server to primary", Recovery::Hold),
    exclusive("resync_slave_db", "re-sync a replica database server with its primary", Recovery::Hold),
    exclusive("disable_replication_slave_db", "disable replication on a replica", Recovery::Rerun),
    exclusive("container_restart", "restart one container", Recovery::Rerun),
    exclusive("service_restart", "restart the containers of one service", Recovery::Rerun),
    exclusive("service_pause", "pause the containers of one service", Recovery::Rerun),
    exclusive("service_resume", "resume the containers of one service", Recovery::Rerun),
    exclusive("process_restart", "restart processes on the stack's servers", Recovery::Rerun),
    exclusive("process_pause", "pause processes on the stack's servers", Recovery::Rerun),
    exclusive("process_resume", "resume processes on the stack's servers", Recovery::Rerun),
];

/// The type of that name, if it is one of the document's.
#[must_use]
pub fn action_type(name: &str) -> Option<&'static ActionType> {
    ACTION_TYPES.iter().find(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogue_names_nineteen_different_types() {
        let mut names: Vec<_> = ACTION_TYPES.iter().map(|kind| kind.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 19);
        assert_eq!(action_type("deploy").map(|kind| kind.exclusive), Some(true));
        assert_eq!(action_type("deploi"), None);
    }
}
