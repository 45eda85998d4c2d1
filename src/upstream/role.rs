//! Which commands have a reply that does more than being delivered.
//!
//! Owns one table, filled when the program is built. Never looks at arguments. What surprises: this
//! is a table and not a `match`, so that a command without a role, which is nearly every one, costs
//! one load.

use super::lane::Role;
use crate::command::spec::{CommandId, builtin_id};
use crate::command::table::STATS_COUNT;

// === impl Role ===

impl Role {
    /// The role of a command by its name.
    #[inline]
    #[must_use]
    pub fn of(command: CommandId) -> Role {
        ROLES.get(command.stats_index()).copied().unwrap_or(Role::Plain)
    }

    /// Whether the client gets the reply as it is, and nothing depends on it.
    #[inline]
    #[must_use]
    pub fn is_plain(self) -> bool {
        matches!(self, Role::Plain | Role::Sized)
    }
}

static ROLES: [Role; STATS_COUNT] = {
    let mut roles = [Role::Plain; STATS_COUNT];
    roles[builtin_id("eval").index()] = Role::Script;
    roles[builtin_id("eval_ro").index()] = Role::Script;
    roles[builtin_id("evalsha").index()] = Role::Script;
    roles[builtin_id("evalsha_ro").index()] = Role::Script;
    roles[builtin_id("script|load").index()] = Role::Script;
    roles[builtin_id("script|flush").index()] = Role::Script;
    roles[builtin_id("function|load").index()] = Role::Library;
    roles[builtin_id("function|delete").index()] = Role::Library;
    roles[builtin_id("function|flush").index()] = Role::Library;
    roles[builtin_id("function|restore").index()] = Role::Library;
    roles[builtin_id("hgetall").index()] = Role::Sized;
    roles[builtin_id("hkeys").index()] = Role::Sized;
    roles[builtin_id("hvals").index()] = Role::Sized;
    roles[builtin_id("smembers").index()] = Role::Sized;
    roles[builtin_id("lrange").index()] = Role::Sized;
    roles[builtin_id("zrange").index()] = Role::Sized;
    roles[builtin_id("zrevrange").index()] = Role::Sized;
    roles[builtin_id("zrangebyscore").index()] = Role::Sized;
    roles[builtin_id("zrevrangebyscore").index()] = Role::Sized;
    roles[builtin_id("zrangebylex").index()] = Role::Sized;
    roles[builtin_id("zrevrangebylex").index()] = Role::Sized;
    roles[builtin_id("xrange").index()] = Role::Sized;
    roles[builtin_id("xrevrange").index()] = Role::Sized;
    roles[builtin_id("config|get").index()] = Role::Settings;
    roles[builtin_id("info").index()] = Role::Info { is_joined: true };
    roles
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table::Table;

    #[test]
    fn only_a_few_commands_have_a_role_and_all_of_them_are_shared() {
        let table = Table::builtin();
        let with_role: Vec<_> =
            table.specs().filter(|spec| Role::of(spec.id) != Role::Plain).collect();
        assert_eq!(with_role.len(), 25);
        for spec in with_role {
            assert_eq!(spec.class, crate::command::spec::Class::Shared, "{}", spec.name);
        }
        assert_eq!(Role::of(table.find("get").unwrap().id), Role::Plain);
    }
}
