//! Which commands a rule speaks of, from their names.
//!
//! Owns the spelling: `GET`, `CONFIG SET` or `CONFIG|SET`, a container for all its subcommands,
//! `@category`, and `server:` before a name or a category for what only the operator's own server has.
//! Never asks a server.
//!
//! What surprises: an unknown name is an error, because a misspelt command in a rule that denies would
//! leave the door open and say nothing. A name with a dot is taken for a module's.

use super::compile::Texts;
use crate::command::flags::Categories;
use crate::command::spec::{CommandId, Spec};
use crate::command::table::{BUILTIN_COUNT, Table};
use crate::config::Fault;
use crate::config::checker::Checker;
use crate::config::spelling::nearest;
use crate::policy::rule::Commands;

/// All names that are known.
pub(super) struct Vocabulary {
    table: Table,
}

// === impl Vocabulary ===

impl Vocabulary {
    pub(super) fn new() -> Self {
        Self { table: Table::builtin() }
    }

    /// Those that are meant by a list of names; all if there is none.
    pub(super) fn commands(&self, checker: &mut Checker, written: Option<&Texts<'_>>) -> Commands {
        let Some(written) = written else {
            return Commands { all: true, ..Commands::default() };
        };
        let mut commands = Commands { builtin: vec![false; BUILTIN_COUNT], ..Commands::default() };
        for name in written.get_ref() {
            if let Err(Fault { what, hint }) = self.add(&mut commands, name.get_ref()) {
                checker.complain(name, what, hint);
            }
        }
        if written.get_ref().is_empty() {
            let hint = "name some, or leave 'commands' out for all of them";
            checker.complain(written, "an empty list of commands", hint);
        }
        commands
    }

    /// The built-in command of this name, as a rule spells it.
    pub(super) fn find(&self, name: &str) -> Option<&Spec> {
        self.table.find(name)
    }

    /// The built-in commands among them.
    pub(super) fn specs<'a>(&'a self, commands: &'a Commands) -> impl Iterator<Item = &'a Spec> {
        let numbers = (0_u16..).zip(&commands.builtin).filter(|(_, is_meant)| **is_meant);
        numbers.filter_map(|(number, _)| self.table.spec(CommandId(number)))
    }

    fn add(&self, commands: &mut Commands, name: &str) -> Result<(), Fault> {
        if let Some(category) = name.strip_prefix('@') {
            let category = category_of(category)?;
            commands.categories.push(category);
            let specs = self.table.specs().filter(|spec| spec.categories.contains(category));
            specs.for_each(|spec| include(commands, spec));
            return Ok(());
        }
        if let Some(category) = name.strip_prefix("server:@") {
            commands.categories.push(category_of(category)?);
            return Ok(());
        }
        if let Some(name) = name.strip_prefix("server:") {
            commands.strangers.push(name.to_ascii_lowercase().replacen(' ', "|", 1).into());
            return Ok(());
        }
        let Some(meant) = self.table.find(name) else {
            return self.add_stranger(commands, name);
        };
        include(commands, meant);
        if meant.is_container {
            let own = self.table.specs().filter(|spec| spec.container == Some(meant.id));
            own.for_each(|spec| include(commands, spec));
            // A newer server's subcommands of it, which no table of ours has.
            commands.strangers.push(format!("{}|", meant.name).into());
        }
        Ok(())
    }

    fn add_stranger(&self, commands: &mut Commands, name: &str) -> Result<(), Fault> {
        let plain = name.to_ascii_lowercase().replacen(' ', "|", 1);
        let is_name = !plain.is_empty() && plain.bytes().all(|byte| byte.is_ascii_graphic());
        if is_name && plain.contains('.') {
            commands.strangers.push(plain.into());
            return Ok(());
        }
        let what = format!("'{name}' is not a command");
        if !is_name {
            return Err(Fault::new(what, "write a name, as \"GET\" or \"CONFIG SET\""));
        }
        let known: Vec<&str> = self.table.specs().map(|spec| &*spec.name).collect();
        let meant = nearest(&plain, &known).map(|known| format!("did you mean '{known}'? "));
        let meant = meant.unwrap_or_default();
        let hint = format!("{meant}if only your server has it, write \"server:{name}\"");
        Err(Fault::new(what, hint))
    }
}

/// A category by its name without `@`.
fn category_of(name: &str) -> Result<Categories, Fault> {
    let fault = || {
        let known: Vec<&str> = Categories::all().collect();
        let hint = match nearest(name, &known) {
            Some(known) => format!("did you mean '@{known}'?"),
            None => format!("known: {}", known.join(", ")),
        };
        Fault::new(format!("'@{name}' is not a category"), hint)
    };
    Categories::from_name(&name.to_ascii_lowercase()).ok_or_else(fault)
}

fn include(commands: &mut Commands, spec: &Spec) {
    if let Some(is_meant) = commands.builtin.get_mut(spec.id.index()) {
        *is_meant = true;
    }
}
