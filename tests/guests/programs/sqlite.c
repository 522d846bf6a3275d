/* SQLite on a file: 100,000 rows in one transaction, an index, queries, a rollback. */

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

#define ROWS 100000

static sqlite3 *db;

static void check(int result, int wanted, const char *doing)
{
    if (result != wanted) {
        printf("%s: %s\n", doing, sqlite3_errmsg(db));
        exit(1);
    }
}

static void run(const char *sql)
{
    check(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK, sql);
}

static int row(void *label, int columns, char **values, char **names)
{
    printf("%s:", (char *)label);
    for (int i = 0; i < columns; i++)
        printf(" %s=%s", names[i], values[i] ? values[i] : "NULL");
    putchar('\n');
    return 0;
}

static void query(char *label, const char *sql)
{
    check(sqlite3_exec(db, sql, row, label, NULL), SQLITE_OK, sql);
}

static void insert(void)
{
    sqlite3_stmt *statement;
    char text[32];

    check(sqlite3_prepare_v2(db, "INSERT INTO items(word, value) VALUES (?, ?)", -1, &statement,
                             NULL), SQLITE_OK, "prepare");
    run("BEGIN");
    for (unsigned i = 0; i < ROWS; i++) {
        snprintf(text, sizeof text, "word %u", i * 2654435761u % 1000);
        sqlite3_bind_text(statement, 1, text, -1, SQLITE_TRANSIENT);
        sqlite3_bind_double(statement, 2, i / 8.0);
        check(sqlite3_step(statement), SQLITE_DONE, "insert");
        sqlite3_reset(statement);
    }
    run("COMMIT");
    sqlite3_finalize(statement);
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "db";

    check(sqlite3_open(path, &db), SQLITE_OK, path);
    run("CREATE TABLE items(id INTEGER PRIMARY KEY, word TEXT, value REAL)");
    insert();
    run("CREATE INDEX words ON items(word)");
    query("all", "SELECT count(*) AS n, sum(value) AS sum, min(word) AS least FROM items");
    query("word", "SELECT word, count(*) AS n, max(id) AS last FROM items WHERE word >= 'word 99' "
                  "GROUP BY word ORDER BY n DESC, word LIMIT 5");
    run("BEGIN; DELETE FROM items WHERE id % 3 = 0");
    query("deleted", "SELECT count(*) AS n FROM items");
    run("ROLLBACK");
    query("back", "SELECT count(*) AS n FROM items");
    query("check", "PRAGMA integrity_check");
    check(sqlite3_close(db), SQLITE_OK, "close");
    /* As another program would find it. */
    check(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK, "open again");
    query("again", "SELECT avg(value) AS mean, group_concat(DISTINCT id % 7) AS rests FROM items");
    sqlite3_close(db);
    return 0;
}
