-- Run once by the PostgreSQL image, when its volume is new: the platform's role, which is no superuser,
-- and the two databases it owns. Same password as the superuser's: it is one server for one platform.
\getenv password POSTGRES_PASSWORD
CREATE ROLE ecommersss LOGIN PASSWORD :'password';
CREATE DATABASE ecommersss OWNER ecommersss;
CREATE DATABASE dagster OWNER ecommersss;
