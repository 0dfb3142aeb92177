// Entry for links of other programs, /ui/open.html#STUDY-INSTANCE-UID. What follows the "#" is sent to no server, so that
// no log has it. The page is open to all, because a browser sends no session cookie with a link of another site; from
// here it does, and a user who has to log in first finds the study afterwards.
import { comeBack } from "./returning.js";

comeBack(`#uid=${location.hash.slice(1)}`);
location.replace("/");
