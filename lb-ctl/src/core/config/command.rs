//! Programs of the operator's, as keys name them.

use toml::de::DeValue;

use super::value::{self, found};
use crate::core::command::Command;

/// The most bytes of a program's path and arguments, far below what the kernel takes.
const LONGEST: usize = 8192;

/// A program and its arguments: an array of strings, which no shell reads.
pub(super) fn command(value: &DeValue<'_>) -> Result<Command, String> {
    let expected = "an array of a program's absolute path and its arguments";
    let advice = r#"write ["/usr/local/bin/program", "argument"]; no shell reads it"#;
    let refuse = |found: String| Err(format!("expected {expected}, found {found}; {advice}"));
    let Some((program, arguments)) = value.as_array().and_then(|elements| elements.split_first()) else {
        return refuse(found(value));
    };
    let arguments = arguments
        .iter()
        .map(|argument| value::string(argument.get_ref(), "an argument").map(ToOwned::to_owned))
        .collect::<Result<Vec<_>, _>>()?;
    let program = value::file(program.get_ref())?;
    let length = arguments
        .iter()
        .fold(program.as_os_str().len(), |sum, it| sum + it.len() + 1);
    if length > LONGEST {
        return refuse(format!("{length} bytes, more than {LONGEST}"));
    }
    if arguments.iter().any(|argument| argument.contains('\0')) {
        return refuse("a zero byte".into());
    }
    Ok(Command { program, arguments })
}
