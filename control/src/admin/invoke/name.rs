//! How an SDK names a function.

use super::answer::AwsError;

/// Which version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Qualifier {
    /// None given, or `$LATEST`: the one in force.
    Latest,
    /// This one, which is there while it is in force.
    Version(u32),
    /// An alias: there are none.
    Other,
}

/// A function's name, taken out of whatever stood around it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// As given, for messages.
    pub text: String,
    /// `NAME`, `NAMESPACE/NAME`, or `NAMESPACE.NAME`.
    name: String,
    /// Which version.
    pub qualifier: Qualifier,
}

impl Named {
    /// From `NAME`, `NAME:QUALIFIER`, `ACCOUNT:function:NAME` or `arn:aws:lambda:REGION:ACCOUNT:function:NAME`, the last
    /// two with a qualifier or without, and from the query's qualifier.
    pub fn parse(text: &str, query: Option<&str>) -> Result<Named, AwsError> {
        let parts: Vec<&str> = text.split(':').collect();
        let (name, own) = match &parts[..] {
            [name] => (*name, None),
            [name, qualifier] => (*name, Some(*qualifier)),
            ["arn", _, "lambda", _, _, "function", name] | [_, "function", name] => (*name, None),
            ["arn", _, "lambda", _, _, "function", name, qualifier] | [_, "function", name, qualifier] => {
                (*name, Some(*qualifier))
            }
            _ => return Err(AwsError::parameter(format!("`{text}` is not the name or ARN of a function"))),
        };
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if name.is_empty() || name.len() > 300 || !name.chars().all(known) {
            return Err(AwsError::parameter(format!("`{text}` is not the name or ARN of a function")));
        }
        if let (Some(own), Some(query)) = (own, query)
            && own != query
        {
            return Err(AwsError::parameter(format!(
                "`{text}` and the qualifier `{query}` contradict each other"
            )));
        }
        let qualifier = match own.or(query) {
            None | Some("$LATEST") => Qualifier::Latest,
            Some(other) => other.parse().map_or(Qualifier::Other, Qualifier::Version),
        };
        Ok(Named { text: text.to_owned(), name: name.to_owned(), qualifier })
    }

    /// Namespaces and names it may mean, in this order. Names may hold dots themselves.
    pub fn places(&self) -> impl Iterator<Item = (&str, &str)> {
        let (whole, dotted) = match self.name.split_once('/') {
            Some(place) => (place, None),
            None => (("default", self.name.as_str()), self.name.split_once('.')),
        };
        std::iter::once(whole).chain(dotted)
    }

    /// What `X-Amz-Executed-Version` says.
    pub fn executed(&self) -> String {
        match self.qualifier {
            Qualifier::Version(version) => version.to_string(),
            Qualifier::Latest | Qualifier::Other => "$LATEST".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_out_of_arns() {
        let arn = "arn:aws:lambda:eu-central-1:123456789012:function:resize";
        for (text, query, qualifier) in [
            ("resize", None, Qualifier::Latest),
            ("resize:7", None, Qualifier::Version(7)),
            ("resize", Some("7"), Qualifier::Version(7)),
            ("resize:7", Some("7"), Qualifier::Version(7)),
            ("resize:$LATEST", None, Qualifier::Latest),
            ("resize:prod", None, Qualifier::Other),
            ("123456789012:function:resize", None, Qualifier::Latest),
            ("123456789012:function:resize:3", None, Qualifier::Version(3)),
            (arn, None, Qualifier::Latest),
            (&format!("{arn}:12"), None, Qualifier::Version(12)),
        ] {
            let named = Named::parse(text, query).unwrap();
            assert_eq!(
                (named.places().next(), named.qualifier),
                (Some(("default", "resize")), qualifier),
                "{text}"
            );
        }
        for (text, query) in
            [("", None), ("a:b:c", None), ("a b", None), ("a:1", Some("2")), ("arn:aws:s3:::x", None)]
        {
            assert!(Named::parse(text, query).is_err(), "{text}");
        }
    }

    #[test]
    fn a_namespace_stands_before_a_slash_or_a_dot() {
        let places = |text: &str| {
            let named = Named::parse(text, None).unwrap();
            named.places().map(|(n, f)| format!("{n}/{f}")).collect::<Vec<_>>()
        };
        assert_eq!(places("media/thumb"), ["media/thumb"]);
        assert_eq!(places("media.thumb.v2"), ["default/media.thumb.v2", "media/thumb.v2"]);
    }
}
