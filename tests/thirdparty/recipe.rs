//! The recipes of docs/recipes.md.

/// One section of the document, up to the next heading.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    text: &'static str,
}

impl Recipe {
    /// The one under this heading.
    pub(crate) fn after(heading: &str) -> Self {
        let document = include_str!("../../docs/recipes.md");
        let (_, rest) = document.split_once(&format!("\n{heading}\n")).expect("the document has this heading");
        let text = rest.split("\n##").next().unwrap_or(rest);
        Self { text }
    }

    /// The configuration of zdsup.
    pub(crate) fn toml(self) -> &'static str {
        self.block("toml")
    }

    /// What goes with it in Python.
    pub(crate) fn python(self) -> &'static str {
        self.block("python")
    }

    fn block(self, language: &str) -> &'static str {
        let (_, rest) = self.text.split_once(&format!("```{language}\n")).expect("the section has such a block");
        rest.split_once("```").expect("the block has an end").0
    }
}
