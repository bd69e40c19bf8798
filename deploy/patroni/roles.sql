-- What docs/installation.md creates by hand, run by Patroni once, on the first leader.
\getenv owner_password OWNER_PASSWORD
\getenv app_password APP_PASSWORD
CREATE ROLE holdsvc_service NOLOGIN;
CREATE ROLE holdsvc_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE holdsvc_app LOGIN PASSWORD :'app_password' IN ROLE holdsvc_service;
CREATE DATABASE holdsvc OWNER holdsvc_owner;
