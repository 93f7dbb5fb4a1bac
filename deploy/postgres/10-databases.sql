-- The PostgreSQL image runs this once, on a new volume. It creates the platform's role, which is not a superuser,
-- and the two databases the role owns. The role has the superuser's password, since the server has no other user.
\getenv password POSTGRES_PASSWORD
CREATE ROLE ecommersss LOGIN PASSWORD :'password';
CREATE DATABASE ecommersss OWNER ecommersss;
CREATE DATABASE dagster OWNER ecommersss;
