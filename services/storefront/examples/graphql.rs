//! Prints the GraphQL schema: `api/storefront.graphql`.

fn main() {
    print!("{}", storefront::graphql::sdl());
}
