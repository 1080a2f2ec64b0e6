//! stub
use super::{exit::Exit, output::{Failure, Out}};
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    #[arg(long)]
    pub keep: bool,
    #[arg(long)]
    pub dir: Option<std::path::PathBuf>,
}
pub async fn demo(_out: Out, _args: DemoArgs) -> Result<Exit, Failure> { Ok(Exit::Done) }
